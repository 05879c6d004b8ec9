#include "server/model/chat/canonical_jinja.h"

#include <gtest/gtest.h>

namespace tauserve {
namespace {

TEST(CanonicalJinjaTest, OneSpellingForStrings) {
  const char* expected = R"({{'<|a|>'+message.role+'\nb'}})";
  EXPECT_EQ(CanonicalJinja(R"({{ "<|a|>" + message["role"] + '\n' + 'b' }})"), expected);
  EXPECT_EQ(CanonicalJinja("{{- '<|a|>' }}{{ message.role }}\n{{- '\nb' -}}"), expected);
}

TEST(CanonicalJinjaTest, WhiteSpaceThatJinjaDrops) {
  EXPECT_EQ(CanonicalJinja("{% if x %}\n  {%- set a = 1 %}\n    {% endif %}\n"),
            "{%ifx%}{%seta=1%}{%endif%}");
  EXPECT_EQ(CanonicalJinja("{# a note #}\n{{ x }}"), "{{x}}");
  EXPECT_EQ(CanonicalJinja("{{ x }}  {#- a note -#}  {{ y }}"), "{{x+y}}");
}

TEST(CanonicalJinjaTest, WhiteSpaceThatJinjaKeeps) {
  EXPECT_EQ(CanonicalJinja("{{ x }}\n{% if y %} z{% endif %}"),
            R"({{x+'\n'}}{%ify%}{{' z'}}{%endif%})");
  EXPECT_EQ(CanonicalJinja("{{ x }} {% if y %}\n\n{% endif %}"),
            R"({{x+' '}}{%ify%}{{'\n'}}{%endif%})");
}

TEST(CanonicalJinjaTest, StringsMayHoldAnything) {
  EXPECT_EQ(CanonicalJinja(R"({{ '}} {% "a" %}' }}{{ "it\'s" }})"), R"({{'}} {% "a" %}it's'}})");
}

TEST(CanonicalJinjaTest, IncompleteTemplatesEnd) {
  for (const char* text : {"", "{", "{{", "{{ 'a", "{% if \\", "{# a", "{{ x }", "{{ x['",
                           "{{ 'a\\", "{{-", "{#-", "\n"}) {
    CanonicalJinja(text);
  }
}

}  // namespace
}  // namespace tauserve
