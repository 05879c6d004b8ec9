#include "server/model/tokenizer/sentencepiece_model.h"

#include <dlfcn.h>
#include <unistd.h>

#include <mutex>

#include "absl/strings/str_cat.h"

namespace tauserve {
namespace {

constexpr char kPlugin[] = "libtauserve_sentencepiece.so";

std::mutex& PluginMutex() {
  static std::mutex mutex;
  return mutex;
}

// The plugin lies beside the executable.
std::string PluginPath() {
  char path[4096];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof(path));
  const std::string self(path, n > 0 ? n : 0);
  return self.substr(0, self.rfind('/') + 1) + kPlugin;
}

// Loaded once, never unloaded.
absl::StatusOr<const TauserveSentencePieceApi*> Plugin() {
  static const auto plugin = []() -> absl::StatusOr<const TauserveSentencePieceApi*> {
    void* handle = dlmopen(LM_ID_NEWLM, PluginPath().c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("SentencePiece: ", dlerror()));
    }
    auto* api = reinterpret_cast<decltype(&tauserve_sentencepiece_api)>(
        dlsym(handle, "tauserve_sentencepiece_api"));
    if (api == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("SentencePiece: ", dlerror()));
    }
    return api();
  }();
  return plugin;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SentencePieceModel>> SentencePieceModel::Load(
    const std::string& file) {
  std::lock_guard<std::mutex> lock(PluginMutex());
  const auto api = Plugin();
  if (!api.ok()) return api.status();
  char error[1024] = "";
  void* model = (*api)->load(file.c_str(), error, sizeof(error));
  if (model == nullptr) return absl::InvalidArgumentError(error);
  return std::unique_ptr<SentencePieceModel>(new SentencePieceModel(*api, model));
}

SentencePieceModel::SentencePieceModel(const TauserveSentencePieceApi* api, void* model)
    : api_(api),
      model_(model),
      bos_id_(api->bos_id(model)),
      eos_id_(api->eos_id(model)),
      leading_spaces_(api->leading_spaces(model)) {
  const int32_t size = api->size(model);
  for (int32_t id = 0; id < size; id++) {
    size_t length = 0;
    const char* piece = api->piece(model, id, &length);
    pieces_.emplace_back(piece, length);
    kinds_.push_back(static_cast<Kind>(api->kind(model, id)));
  }
}

SentencePieceModel::~SentencePieceModel() {
  std::lock_guard<std::mutex> lock(PluginMutex());
  api_->unload(model_);
}

absl::Status SentencePieceModel::Encode(absl::string_view text, std::vector<int32_t>& ids) const {
  std::lock_guard<std::mutex> lock(PluginMutex());
  size_t count = 0;
  const int* encoded = api_->encode(model_, text.data(), text.size(), &count);
  if (encoded == nullptr) return absl::InternalError("SentencePiece could not encode the text");
  ids.insert(ids.end(), encoded, encoded + count);
  return absl::OkStatus();
}

}  // namespace tauserve
