// Which format a model's Jinja template writes.
#ifndef TAUSERVE_SERVER_MODEL_CHAT_RECOGNIZE_H_
#define TAUSERVE_SERVER_MODEL_CHAT_RECOGNIZE_H_

#include <optional>

#include "absl/strings/string_view.h"
#include "server/model/chat/chat_format.h"

namespace tauserve {

// By the template's structure (canonical_jinja.h): what it writes for a turn and for the start of the answer, and that
// it has nothing that would change this. Nothing if in doubt.
std::optional<ChatFormat> RecognizeChatFormat(absl::string_view jinja);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_CHAT_RECOGNIZE_H_
