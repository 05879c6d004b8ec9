// When requests are sent, on a clock that the tests move by hand.
#include "clients/cpp/bench/pacer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace tauserve::bench {
namespace {

using Kind = Pacer::Step::Kind;

constexpr double kForever = std::numeric_limits<double>::infinity();

// One request every half a second, the first after half a second.
Pacer::Options TwoASecond() {
  Pacer::Options options;
  options.arrivals.emplace(RateCurve{2, 2, 0, 0}, kForever, /*seed=*/0);
  return options;
}

void ExpectWait(const Pacer::Step& step, double until) {
  EXPECT_EQ(step.kind, Kind::kWait);
  EXPECT_DOUBLE_EQ(step.until, until);
}

void ExpectSend(const Pacer::Step& step, uint64_t index, double intended, double ready) {
  EXPECT_EQ(step.kind, Kind::kSend);
  EXPECT_EQ(step.index, index);
  EXPECT_DOUBLE_EQ(step.intended, intended);
  EXPECT_DOUBLE_EQ(step.ready, ready);
}

TEST(PacerTest, OpenLoopSendsWhatIsDue) {
  Pacer::Options options = TwoASecond();
  options.num_requests = 2;
  Pacer pacer(options);
  ExpectWait(pacer.Next(0), 0.5);
  ExpectSend(pacer.Next(0.5), 0, 0.5, 0.5);
  ExpectWait(pacer.Next(0.6), 1);
  ExpectSend(pacer.Next(1), 1, 1, 1);
  ExpectWait(pacer.Next(1), kForever);  // for what is in flight
  pacer.OnFinished(2);
  pacer.OnFinished(3);
  EXPECT_EQ(pacer.Next(3).kind, Kind::kDone);
}

// A program that stalls, or a server that answers nothing, moves no intended time.
TEST(PacerTest, NothingIsOmittedWhileNobodyLooks) {
  Pacer pacer(TwoASecond());
  for (int i = 0; i < 20; i++) ExpectSend(pacer.Next(10), i, (i + 1) / 2.0, (i + 1) / 2.0);
  ExpectWait(pacer.Next(10), 10.5);
  EXPECT_EQ(pacer.in_flight(), 20);
}

TEST(PacerTest, OpenLoopWithALimitCountsFromWhenRequestsWereDue) {
  Pacer::Options options = TwoASecond();
  options.max_concurrency = 1;
  Pacer pacer(options);
  ExpectSend(pacer.Next(0.5), 0, 0.5, 0.5);
  ExpectWait(pacer.Next(5), kForever);
  pacer.OnFinished(6);
  // Due at 1, kept back until 6: by the limit, not by this program.
  ExpectSend(pacer.Next(6.25), 1, 1, 6);
  pacer.OnFinished(7);
  ExpectSend(pacer.Next(7), 2, 1.5, 7);
}

TEST(PacerTest, OpenLoopEndsWithWhatIsDueBeforeTheDuration) {
  Pacer::Options options = TwoASecond();
  options.duration = 1.5;
  Pacer pacer(options);
  // Late, but due before.
  ExpectSend(pacer.Next(9), 0, 0.5, 0.5);
  ExpectSend(pacer.Next(9), 1, 1, 1);
  ExpectWait(pacer.Next(9), kForever);
  EXPECT_EQ(pacer.sent(), 2);
}

TEST(PacerTest, ClosedLoopKeepsItsUsersBusy) {
  Pacer::Options options;
  options.max_concurrency = 2;
  options.num_requests = 4;
  Pacer pacer(options);
  ExpectSend(pacer.Next(0), 0, 0, 0);
  ExpectSend(pacer.Next(0), 1, 0, 0);
  ExpectWait(pacer.Next(0), kForever);
  pacer.OnFinished(3);
  ExpectSend(pacer.Next(3.5), 2, 3, 3);
  // A user who is told to come back later.
  pacer.OnFinished(5);
  ExpectWait(pacer.Next(4), 5);
  ExpectSend(pacer.Next(5), 3, 5, 5);
  ExpectWait(pacer.Next(5), kForever);
  pacer.OnFinished(6);
  pacer.OnFinished(6);
  EXPECT_EQ(pacer.Next(6).kind, Kind::kDone);
}

TEST(PacerTest, ClosedLoopEndsAtItsDuration) {
  Pacer::Options options;
  options.max_concurrency = 1;
  options.duration = 2;
  Pacer pacer(options);
  ExpectSend(pacer.Next(0), 0, 0, 0);
  pacer.OnFinished(2);
  EXPECT_EQ(pacer.Next(2).kind, Kind::kDone);
}

TEST(PacerTest, StopEndsTheSendingAlone) {
  Pacer pacer(TwoASecond());
  ExpectSend(pacer.Next(0.5), 0, 0.5, 0.5);
  pacer.Stop();
  ExpectWait(pacer.Next(10), kForever);
  pacer.OnFinished(10);
  EXPECT_EQ(pacer.Next(10).kind, Kind::kDone);
}

}  // namespace
}  // namespace tauserve::bench
