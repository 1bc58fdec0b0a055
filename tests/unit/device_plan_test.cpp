// What is planned for a capture on a device, where its slots are, and what its fence expects.
#include "publisher/device_plan.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <random>

#include "publisher/capture_pace.hpp"
#include "publisher/slot_memory.hpp"
#include "unit/capture_fixture.hpp"

namespace weightcast::publisher {
namespace {

using test::Policy;
using weightcast::test::seeded;

TEST(DevicePlanTest, BoxesAreTheTensorInItsOrder) {
  std::mt19937_64 random = seeded("BoxesAreTheTensorInItsOrder");
  for (int round = 0; round < 500; ++round) {
    const std::size_t dims = random() % 5;
    std::vector<std::int64_t> shape(dims), strides(dims);
    std::int64_t elements = 1;
    for (std::size_t d = 0; d < dims; ++d) {
      shape[d] = std::int64_t(1 + random() % 6);
      strides[d] = std::int64_t(random() % 50);
      elements *= shape[d];
    }
    const std::uint64_t first = random() % std::uint64_t(elements);
    const std::uint64_t count = random() % (std::uint64_t(elements) - first + 1);
    std::vector<std::int64_t> expected;
    for (std::uint64_t i = first; i < first + count; ++i) {
      std::int64_t at = 0;
      std::uint64_t rest = i;
      for (std::size_t d = dims; d-- > 0;) {
        at += std::int64_t(rest % std::uint64_t(shape[d])) * strides[d];
        rest /= std::uint64_t(shape[d]);
      }
      expected.push_back(at);
    }

    DevicePlan plan;
    cut_into_boxes(shape, strides, first, count, 2, plan);

    std::vector<std::int64_t> found;
    for (const GatherBox& box : plan.boxes) {
      ASSERT_EQ(box.to, found.size() * 2);
      for (std::uint64_t i = 0; i < box.elements; ++i) {
        std::int64_t at = box.from;
        std::uint64_t rest = i;
        for (std::uint32_t d = box.dims; d-- > 0;) {
          const auto size = std::uint64_t(plan.sizes[box.first_dim + d]);
          at += std::int64_t(rest % size) * plan.strides[box.first_dim + d];
          rest /= size;
        }
        found.push_back(at);
      }
    }
    ASSERT_EQ(found, expected);
    ASSERT_LE(plan.boxes.size(), 2 * dims + 1);
  }
}

TensorView view(const std::string& name, std::int64_t bytes, int device) {
  TensorView made;
  made.info = {name, {}, DType::kU8, {bytes}};
  made.device = device;
  return made;
}

TEST(DevicePlanTest, TensorsLieInOnePlace) {
  const auto place = [](std::vector<TensorView> tensors) {
    TensorList list;
    list.tensors = std::move(tensors);
    return device_of(list);
  };
  const std::int64_t most = kMostHostTensorBytes;

  EXPECT_EQ(*place({view("a", 10 * most, -1)}), -1);
  EXPECT_EQ(*place({view("a", 10 * most, 1), view("b", most, -1), view("c", 0, 0)}), 1);
  for (const auto& refused : {place({view("a", 5, 0), view("odd", 5, 1)}),
                              place({view("a", 5, 0), view("odd", most + 1, -1)}),
                              place({view("b", most, -1), view("c", most, -1), view("odd", 1, -1),
                                     view("a", 5, 0)})}) {
    ASSERT_FALSE(refused.is_ok());
    EXPECT_EQ(refused.status().code(), Code::kInvalid);
    EXPECT_NE(refused.status().message().find("'odd'"), std::string::npos)
        << refused.status().message();
  }
}

TEST(DevicePlanTest, WhatItsDigestCopiesIsNotReadTwice) {
  test::Policy policy = test::mixed_policy(1);
  CaptureRequest request;
  request.list = policy.list();
  for (TensorView& tensor : request.list.tensors) tensor.device = 0;
  request.published = policy.published();
  request.layout = plan::own_share(policy.published(), 0, 2);
  request.whole_policy_digest = true;
  std::uint64_t plain = 0;  // of ours
  for (const bool on_device : {false, true}) {
    const DevicePlan plan = make_device_plan(request, on_device, 4096, 1024);
    std::uint64_t wholes = 0, own_wholes = 0, directs = 0, moved = 0;
    for (std::size_t i = 0; i < plan.wholes.size(); ++i) {
      if (plan.wholes[i].way != Way::kDirect) continue;
      wholes += plan.wholes[i].end;
      if (i < plan.own_wholes) own_wholes += plan.wholes[i].end;
    }
    for (std::size_t c = 0; c < plan.chunks.size(); ++c) {
      const DeviceChunk& chunk = plan.chunks[c];
      EXPECT_EQ(chunk.is_ours, c < plan.own_chunks);
      EXPECT_LE(chunk.bytes, chunk.is_ours ? 4096U : 1024U);
      std::uint32_t count = 0;
      for (std::uint32_t i = chunk.first_part; i < chunk.first_part + chunk.parts; ++i) {
        if (plan.parts[i].way != Way::kDirect) continue;
        ++count;
        moved += plan.parts[i].end - plan.parts[i].begin;
        EXPECT_EQ((chunk.offset + plan.parts[i].at) % 8, 0U);
      }
      EXPECT_EQ(chunk.directs, on_device ? count : 0U);
      directs += chunk.directs;
    }
    EXPECT_EQ(directs > 0, on_device);
    if (!on_device) {
      plain = own_wholes;
      EXPECT_GT(plain, 0U);
    } else {
      EXPECT_EQ(own_wholes, 0U);
    }
    EXPECT_EQ(moved, plain);
    EXPECT_GT(wholes, own_wholes);  // of the other share
  }
}

TEST(DevicePlanTest, StagingIsChosenByWhatReadsTheSlots) {
  struct Case {
    Staging asked;
    TransportChoice transport;
    bool others;
    std::uint64_t budget;
    std::optional<Staging> chosen;  ///< empty: refused
  };
  using S = Staging;
  using T = TransportChoice;
  for (const Case& c : {Case{S::kAuto, T::kAuto, false, 0, S::kHost},
                        Case{S::kAuto, T::kAuto, false, 100, S::kDevice},
                        Case{S::kAuto, T::kAuto, false, 99, S::kHost},
                        Case{S::kAuto, T::kAuto, true, 100, S::kHost},
                        Case{S::kAuto, T::kTcp, false, 100, S::kHost},
                        Case{S::kAuto, T::kShm, false, 100, S::kHost},
                        Case{S::kAuto, T::kCudaIpc, false, 0, S::kDevice},
                        Case{S::kAuto, T::kNccl, true, 100, S::kDevice},
                        Case{S::kHost, T::kAuto, false, 100, S::kHost},
                        Case{S::kHost, T::kCudaIpc, false, 100, {}},
                        Case{S::kDevice, T::kAuto, false, 0, S::kDevice},
                        Case{S::kDevice, T::kAuto, true, 0, {}},
                        Case{S::kDevice, T::kTcp, false, 0, {}},
                        Case{S::kDevice, T::kShm, false, 0, {}}}) {
    PublisherOptions options;
    options.staging = c.asked;
    options.transport = c.transport;
    options.device_budget = c.budget;
    if (c.others) options.listen = "0.0.0.0:29577";

    const auto choice = choose_staging(options, 100);

    ASSERT_EQ(choice.is_ok(), c.chosen.has_value());
    if (choice) {
      EXPECT_EQ(choice->staging, *c.chosen) << choice->why;
    } else {
      EXPECT_EQ(choice.status().code(), Code::kInvalid);
    }
  }
}

TEST(DevicePlanTest, AFenceExpectsWhatIsLeftLessTheTimeItHas) {
  using std::chrono::milliseconds;
  const Clock::time_point start{};
  CapturePace pace(1e9);
  pace.begin(1'000'000'000);
  EXPECT_EQ(pace.expected_wait(start), milliseconds(1000));

  pace.measured(milliseconds(500));
  EXPECT_EQ(pace.expected_wait(start), milliseconds(500));
  pace.measured_window(milliseconds(300));
  EXPECT_EQ(pace.expected_wait(start), milliseconds(200)) << "the device has yet to come to it";
  pace.measured_window(milliseconds(700));
  EXPECT_EQ(pace.expected_wait(start), milliseconds(200)) << "the shorter one counts";

  pace.started(start);
  pace.progress(500'000'000);
  EXPECT_EQ(pace.expected_wait(start + milliseconds(400)), milliseconds(400))
      << "slower than the last one";
  pace.progress(1'000'000'000);
  EXPECT_EQ(pace.expected_wait(start + milliseconds(800)), milliseconds(0));
}

}  // namespace
}  // namespace weightcast::publisher
