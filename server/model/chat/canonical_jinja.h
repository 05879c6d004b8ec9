// One spelling for the many in which people write the same Jinja template, so that its structure can be looked for as
// text: without comments and the white space that Jinja drops (trim_blocks and lstrip_blocks, as transformers sets
// them), with ' for both quotes, message.role for message['role'], text as {{'text'}}, and neighbouring outputs and
// string literals joined. A newline in a string is \n. For comparing only: the result need not be valid Jinja.
#ifndef TAUSERVE_SERVER_MODEL_CHAT_CANONICAL_JINJA_H_
#define TAUSERVE_SERVER_MODEL_CHAT_CANONICAL_JINJA_H_

#include <string>

#include "absl/strings/string_view.h"

namespace tauserve {

std::string CanonicalJinja(absl::string_view source);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_CHAT_CANONICAL_JINJA_H_
