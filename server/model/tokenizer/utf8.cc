#include "server/model/tokenizer/utf8.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tauserve {

// Table 3-7 of the Unicode standard: only the second byte's range depends on the first.
Utf8Part NextUtf8(absl::string_view bytes) {
  using Kind = Utf8Part::Kind;
  const auto at = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = at(0);
  if (lead < 0x80) return {Kind::kCharacter, 1, lead};
  if (lead < 0xc2 || lead > 0xf4) return {Kind::kInvalid, 1, 0};
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  uint8_t lo = 0x80, hi = 0xbf;
  if (lead == 0xe0) lo = 0xa0;
  if (lead == 0xed) hi = 0x9f;
  if (lead == 0xf0) lo = 0x90;
  if (lead == 0xf4) hi = 0x8f;
  uint32_t code = lead & (0x7f >> length);
  for (size_t i = 1; i < length; i++) {
    if (i == bytes.size()) return {Kind::kIncomplete, i, 0};
    if (at(i) < lo || at(i) > hi) return {Kind::kInvalid, i, 0};
    code = code << 6 | (at(i) & 0x3f);
    lo = 0x80;
    hi = 0xbf;
  }
  return {Kind::kCharacter, length, code};
}

size_t FindInvalidUtf8(absl::string_view bytes) {
  for (size_t i = 0; i < bytes.size();) {
    const Utf8Part part = NextUtf8(bytes.substr(i));
    if (part.kind != Utf8Part::Kind::kCharacter) return i;
    i += part.length;
  }
  return absl::string_view::npos;
}

void AppendReplacement(absl::string_view bytes, bool each_byte, std::string& text) {
  for (size_t n = each_byte ? bytes.size() : std::min<size_t>(bytes.size(), 1); n > 0; n--) {
    text += "\xef\xbf\xbd";
  }
}

absl::Status CheckUtf8(absl::string_view text) {
  const size_t bad = FindInvalidUtf8(text);
  if (bad == absl::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("text is not valid UTF-8 at byte ", bad, " of ", text.size()));
}

std::string DecodeUtf8(absl::string_view bytes, bool each_byte, std::string& text) {
  while (!bytes.empty()) {
    const Utf8Part part = NextUtf8(bytes);
    if (part.kind == Utf8Part::Kind::kIncomplete) break;
    const absl::string_view shown = bytes.substr(0, part.length);
    if (part.kind == Utf8Part::Kind::kCharacter) {
      text.append(shown.data(), shown.size());
    } else {
      AppendReplacement(shown, each_byte, text);
    }
    bytes.remove_prefix(part.length);
  }
  return std::string(bytes);
}

void AppendUtf8(uint32_t c, std::string& text) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += static_cast<char>(0xc0 | c >> 6);
    text += static_cast<char>(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    text += static_cast<char>(0xe0 | c >> 12);
    text += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    text += static_cast<char>(0x80 | (c & 0x3f));
  } else {
    text += static_cast<char>(0xf0 | c >> 18);
    text += static_cast<char>(0x80 | (c >> 12 & 0x3f));
    text += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    text += static_cast<char>(0x80 | (c & 0x3f));
  }
}

}  // namespace tauserve
