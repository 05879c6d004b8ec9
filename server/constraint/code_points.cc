#include "server/constraint/code_points.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "server/model/tokenizer/utf8.h"

namespace tauserve {
namespace {

constexpr uint32_t kLast = 0x10ffff;
constexpr uint32_t kFirstSurrogate = 0xd800, kLastSurrogate = 0xdfff;

// Builds the bytes of ranges of characters in front of one state. Equal tails are built once.
class Utf8Spelling {
 public:
  Utf8Spelling(NfaBuilder& builder, StateId next) : builder_(builder), next_(next) {}

  // First bytes go to `edges`.
  void Add(uint32_t lo, uint32_t hi, std::vector<ByteEdge>& edges) {
    for (uint32_t last : {0x7fu, 0x7ffu, 0xffffu, kLast}) {
      if (lo > hi) return;
      if (lo <= last) AddOfOneLength(lo, std::min(hi, last), edges);
      lo = std::max(lo, last + 1);
    }
  }

 private:
  // All of [lo, hi] take as many bytes. Cut so that each piece is a product of byte ranges.
  void AddOfOneLength(uint32_t lo, uint32_t hi, std::vector<ByteEdge>& edges) {
    for (uint32_t tail : {0x3fu, 0xfffu, 0x3ffffu}) {
      if ((lo & ~tail) == (hi & ~tail)) continue;
      if (hi <= 0x7f || (tail > 0x3f && hi <= 0x7ff) || (tail > 0xfff && hi <= 0xffff)) continue;
      if ((lo & tail) != 0) {
        AddOfOneLength(lo, lo | tail, edges);
        AddOfOneLength((lo | tail) + 1, hi, edges);
        return;
      }
      if ((hi & tail) != tail) {
        AddOfOneLength(lo, (hi & ~tail) - 1, edges);
        AddOfOneLength(hi & ~tail, hi, edges);
        return;
      }
    }
    std::string first, last;
    AppendUtf8(lo, first);
    AppendUtf8(hi, last);
    StateId to = next_;
    for (size_t i = first.size() - 1; i > 0; i--) to = Tail(first[i], last[i], to);
    edges.push_back({static_cast<uint8_t>(first[0]), static_cast<uint8_t>(last[0]), to});
  }

  StateId Tail(uint8_t lo, uint8_t hi, StateId to) {
    const auto [it, fresh] = tails_.try_emplace({lo, hi, to}, 0);
    if (fresh) it->second = builder_.Bytes({{lo, hi, to}});
    return it->second;
  }

  NfaBuilder& builder_;
  const StateId next_;
  std::map<std::tuple<uint8_t, uint8_t, StateId>, StateId> tails_;
};

constexpr std::pair<char, char> kShortEscapes[] = {
    {'"', '"'}, {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}};

void AddEscapes(NfaBuilder& builder, const CodePointSet& set, StateId next,
                std::vector<ByteEdge>& edges) {
  std::vector<ByteEdge> escapes;
  CodePointSet short_ones;
  for (const auto& [character, letter] : kShortEscapes) {
    const auto byte = static_cast<uint8_t>(letter);
    if (set.Contains(character)) escapes.push_back({byte, byte, next});
    short_ones.Add(character, character);
  }
  // The others are \u00XX, in lower case.
  std::vector<ByteEdge> digits[2];
  for (uint32_t c = 0; c < 0x20; c++) {
    if (!set.Contains(c) || short_ones.Contains(c)) continue;
    const auto digit = static_cast<uint8_t>("0123456789abcdef"[c % 16]);
    digits[c / 16].push_back({digit, digit, next});
  }
  std::vector<ByteEdge> tens;
  for (uint8_t ten : {0, 1}) {
    if (digits[ten].empty()) continue;
    const auto digit = static_cast<uint8_t>('0' + ten);
    tens.push_back({digit, digit, builder.Bytes(std::move(digits[ten]))});
  }
  if (!tens.empty()) {
    escapes.push_back({'u', 'u', builder.Text("00", builder.Bytes(std::move(tens)))});
  }
  if (!escapes.empty()) edges.push_back({'\\', '\\', builder.Bytes(std::move(escapes))});
}

}  // namespace

CodePointSet CodePointSet::All() { return Range(0, kLast); }

CodePointSet CodePointSet::Range(uint32_t lo, uint32_t hi) {
  CodePointSet set;
  set.Add(lo, hi);
  return set;
}

void CodePointSet::Add(uint32_t lo, uint32_t hi) { ranges_.emplace_back(lo, hi); }

void CodePointSet::Add(const CodePointSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
}

std::vector<std::pair<uint32_t, uint32_t>> CodePointSet::Ranges() const {
  std::vector<std::pair<uint32_t, uint32_t>> parts, merged;
  for (const auto& [lo, hi] : ranges_) {
    if (lo < kFirstSurrogate) parts.emplace_back(lo, std::min(hi, kFirstSurrogate - 1));
    if (hi > kLastSurrogate) parts.emplace_back(std::max(lo, kLastSurrogate + 1), hi);
  }
  std::sort(parts.begin(), parts.end());
  for (const auto& [lo, hi] : parts) {
    if (!merged.empty() && lo <= merged.back().second + 1) {
      merged.back().second = std::max(merged.back().second, hi);
    } else {
      merged.emplace_back(lo, hi);
    }
  }
  return merged;
}

CodePointSet CodePointSet::Complement() const {
  CodePointSet result;
  uint32_t from = 0;
  for (const auto& [lo, hi] : Ranges()) {
    if (lo > from) result.Add(from, lo - 1);
    from = hi + 1;
  }
  if (from <= kLast) result.Add(from, kLast);
  return result;
}

CodePointSet CodePointSet::Minus(const CodePointSet& other) const {
  CodePointSet rest = Complement();
  rest.Add(other);
  return rest.Complement();
}

bool CodePointSet::Contains(uint32_t code_point) const {
  return std::any_of(ranges_.begin(), ranges_.end(), [&](const auto& range) {
    return range.first <= code_point && code_point <= range.second;
  });
}

StateId AnyOf(NfaBuilder& builder, const CodePointSet& set, Spelling spelling, StateId next) {
  std::vector<ByteEdge> edges;
  CodePointSet raw = set;
  if (spelling == Spelling::kJsonString) {
    CodePointSet escaped = CodePointSet::Range(0, 0x1f);
    escaped.Add('"', '"');
    escaped.Add('\\', '\\');
    AddEscapes(builder, set, next, edges);
    raw = set.Minus(escaped);
  }
  Utf8Spelling utf8(builder, next);
  for (const auto& [lo, hi] : raw.Ranges()) utf8.Add(lo, hi, edges);
  return builder.Bytes(std::move(edges));
}

}  // namespace tauserve
