#include "server/model/chat/canonical_jinja.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace tauserve {
namespace {

// Of a string literal or of text outside of tags.
void AppendQuoted(absl::string_view text, std::string& out) {
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '\n') {
      out += "\\n";
    } else if (text[i] == '\\' && i + 1 < text.size() &&
               (text[i + 1] == '"' || text[i + 1] == '\'')) {
      out += text[++i];
    } else {
      out += text[i];
    }
  }
}

// Length of the string literal at the start of `code`, with its quotes.
size_t LiteralLength(absl::string_view code) {
  size_t end = 1;
  while (end < code.size() && code[end] != code[0]) end += code[end] == '\\' ? 2 : 1;
  return std::min(end + 1, code.size());
}

// ['name'] as .name; behind a space it would be a list.
bool AppendAttribute(absl::string_view& code, std::string& out) {
  const size_t close = code.find(']');
  if (close == absl::string_view::npos || close < 4 || out.empty()) return false;
  if (!absl::ascii_isalnum(out.back()) && out.back() != '_' && out.back() != ']') return false;
  const absl::string_view inside = code.substr(1, close - 1);
  if ((inside.front() != '\'' && inside.front() != '"') || inside.back() != inside.front())
    return false;
  const absl::string_view name = inside.substr(1, inside.size() - 2);
  for (const char c : name) {
    if (!absl::ascii_isalnum(c) && c != '_') return false;
  }
  out += '.';
  out.append(name.data(), name.size());
  code.remove_prefix(close + 1);
  return true;
}

// What is inside of a tag; removes it and the tag's end from `source`.
std::string TakeCode(absl::string_view& source, absl::string_view close) {
  std::string out;
  while (!source.empty() && !absl::StartsWith(source, close)) {
    if (source[0] == '"' || source[0] == '\'') {
      const size_t length = LiteralLength(source);
      out += '\'';
      if (length >= 2) AppendQuoted(source.substr(1, length - 2), out);
      out += '\'';
      source.remove_prefix(length);
    } else if (source[0] == '[' && AppendAttribute(source, out)) {
      continue;
    } else {
      if (!absl::ascii_isspace(source[0])) out += source[0];
      source.remove_prefix(1);
    }
  }
  source.remove_prefix(std::min(close.size(), source.size()));
  return out;
}

// Spaces before a block at the start of a line.
void StripLineStart(absl::string_view& text, bool at_start) {
  const size_t last = text.find_last_not_of(" \t");
  if (last == absl::string_view::npos ? at_start : text[last] == '\n') {
    text.remove_suffix(text.size() - (last == absl::string_view::npos ? 0 : last + 1));
  }
}

}  // namespace

std::string CanonicalJinja(absl::string_view source) {
  absl::ConsumeSuffix(&source, "\n");  // Jinja drops one
  std::string out;
  bool at_start = true, strip_next = false, block_before = false;
  while (true) {
    size_t open = 0;
    while (open < source.size() && !(source[open] == '{' && open + 1 < source.size() &&
                                     absl::StrContains("{%#", source.substr(open + 1, 1)))) {
      open++;
    }
    absl::string_view text = source.substr(0, open);
    source.remove_prefix(open);
    if (strip_next) {
      text = absl::StripLeadingAsciiWhitespace(text);
    } else if (block_before && absl::ConsumePrefix(&text, "\n")) {
      at_start = true;
    }
    const char kind = source.empty() ? '\0' : source[1];
    source.remove_prefix(std::min<size_t>(2, source.size()));
    if (absl::ConsumePrefix(&source, "-")) {
      text = absl::StripTrailingAsciiWhitespace(text);
    } else if (kind == '%' || kind == '#') {
      StripLineStart(text, at_start);
    }
    if (!text.empty()) {
      out += "{{'";
      AppendQuoted(text, out);
      out += "'}}";
    }
    if (kind == '\0') break;
    if (kind == '#') {
      const size_t end = std::min(source.find("#}"), source.size());
      strip_next = end > 0 && end < source.size() && source[end - 1] == '-';
      source.remove_prefix(std::min(end + 2, source.size()));
    } else {
      const std::string close = kind == '{' ? "}}" : "%}";
      std::string code = TakeCode(source, close);
      strip_next = absl::EndsWith(code, "-");
      if (strip_next) code.pop_back();
      out += (kind == '{' ? "{{" : "{%") + code + close;
    }
    block_before = kind != '{';
    at_start = false;
  }
  return absl::StrReplaceAll(absl::StrReplaceAll(out, {{"}}{{", "+"}}), {{"'+'", ""}});
}

}  // namespace tauserve
