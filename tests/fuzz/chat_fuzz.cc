// Any text for the embedded model's tokenizer, as a prompt, as a message of a chat, and as a chat template. The first byte
// chooses the message's role, the second the format.
#include <cstdint>
#include <memory>
#include <vector>

#include "server/model/chat/chat_template.h"
#include "server/model/chat/recognize.h"
#include "tests/fuzz/check_tokenizer.h"
#include "tests/fuzz/embedded_tokenizer.h"
#include "tests/fuzz/memory_folder.h"

namespace tauserve {
namespace {

struct Chats {
  Chats() {
    for (const ChatFormat& format : ChatFormats()) {
      auto chat = ChatTemplate::Load(kEmbeddedModel, format.name, tokenizer.get());
      TAUSERVE_CHECK(chat.ok(), "a chat format");
      templates.push_back(*std::move(chat));
    }
  }
  const std::unique_ptr<Tokenizer> tokenizer = LoadEmbeddedTokenizer();
  std::vector<ChatTemplate> templates;
};

}  // namespace
}  // namespace tauserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const tauserve::Chats* const chats = new tauserve::Chats();
  if (size < 2) return 0;
  const uint8_t choice = data[0];
  const absl::string_view text = tauserve::AsText(data + 2, size - 2);
  tauserve::CheckTokenizer(*chats->tokenizer, text);
  tauserve::RecognizeChatFormat(text);
  constexpr const char* kRoles[] = {"system", "user", "assistant", "tool"};
  tauserve::ChatPrompt prompt;
  prompt.messages = {{kRoles[choice % 4], std::string(text)},
                     {kRoles[choice / 4 % 4], "and then?"}};
  prompt.add_generation_prompt = (choice & 16) != 0;
  prompt.continue_final_message = (choice & 32) != 0;
  const auto ids = chats->templates[data[1] % chats->templates.size()].Encode(prompt);
  if (!ids.ok()) return 0;
  TAUSERVE_CHECK(tauserve::CheckUtf8(text).ok(), "a chat that is not UTF-8 is refused");
  for (const int32_t id : *ids) {
    TAUSERVE_CHECK(id >= 0 && id < chats->tokenizer->vocab_size(), "an id outside the vocabulary");
  }
  return 0;
}
