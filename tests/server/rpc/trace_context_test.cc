#include "server/rpc/trace_context.h"

#include <gtest/gtest.h>

#include <string>

namespace tauserve {
namespace {

constexpr char kId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
const std::string kGood = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceContextTest, TakesTheTraceId) {
  EXPECT_EQ(TraceIdOf(kGood), kId);
  EXPECT_EQ(TraceIdOf("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), kId);
}

TEST(TraceContextTest, LaterVersionsMayHaveMoreFields) {
  EXPECT_EQ(TraceIdOf("01" + kGood.substr(2)), kId);
  EXPECT_EQ(TraceIdOf("cc" + kGood.substr(2) + "-what-the-future-brings"), kId);
  EXPECT_EQ(TraceIdOf("cc" + kGood.substr(2) + "."), std::nullopt);
  EXPECT_EQ(TraceIdOf(kGood + "-more"), std::nullopt) << "version 00 has none";
}

TEST(TraceContextTest, IgnoresWhatIsInvalid) {
  for (const std::string& bad : {
           std::string(),
           std::string("00"),
           kGood.substr(0, 54),
           kGood + "0",
           " " + kGood,
           "ff" + kGood.substr(2),
           "0x" + kGood.substr(2),
           std::string("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
           std::string("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"),
           std::string("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"),
           std::string("00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01"),
           std::string("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g"),
           std::string("00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
           std::string("00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01"),
           std::string("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01"),
           std::string(55, '\0'),
           std::string(55, '\xff'),
       }) {
    EXPECT_EQ(TraceIdOf(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace tauserve
