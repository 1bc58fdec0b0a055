// What tracing costs those who are traced: no memory, whether it is on or off.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <new>
#include <string>

#include "base/stage_stats.hpp"
#include "base/trace.hpp"
#include "support/private_place.hpp"

namespace {
thread_local std::size_t t_allocations = 0;
}  // namespace

// Counts what the calling thread allocates. Not inlined: gcc 12 takes the pair for a mismatch.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++t_allocations;
  if (void* const memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace weightcast::base {
namespace {

constexpr Clock::time_point kBegin{std::chrono::nanoseconds(1)};
constexpr Clock::time_point kEnd{std::chrono::nanoseconds(2)};

std::size_t allocations_of_spans() {
  const std::size_t before = t_allocations;
  for (int i = 0; i < 1000; ++i) {
    const TraceScope scope("hook", "publish", {.version = 1});
    trace_span("wire", "tcp", kBegin, kEnd);
  }
  return t_allocations - before;
}

TEST(TraceCostTest, WithoutATraceNothingIsAllocatedOrMade) {
  ASSERT_FALSE(tracing());
  EXPECT_EQ(allocations_of_spans(), 0u);
  EXPECT_EQ(trace_file(), "");
}

TEST(TraceCostTest, WithATraceThoseWhoAreTracedAllocateNothingEither) {
  const test::PrivatePlace place;
  ASSERT_TRUE(open_trace(place.path() + "/trace.json", "the test"));
  EXPECT_EQ(allocations_of_spans(), 0u);
  close_trace();
}

TEST(TraceCostTest, WhereStagesAreCountedNothingIsAllocatedEither) {
  count_stage("hook", 1, 0);  // the table is made once
  count_stages(true);
  ASSERT_TRUE(tracing());
  EXPECT_EQ(allocations_of_spans(), 0u);
  count_stages(false);
}

TEST(TraceCostTest, TheseTestsSeeAllocations) {
  const std::size_t before = t_allocations;
  const std::string text(1000, 'x');
  EXPECT_GT(t_allocations, before) << text.size();
}

}  // namespace
}  // namespace weightcast::base
