// Engines that want other tensors than the trainer has: fused, halves, columns; from two ranks.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "integration/local_job.hpp"
#include "integration/two_ranks.hpp"

namespace weightcast {
namespace {

using test::eventually;
using test::has;
using test::soon;
using test::ToyPolicy;

/// Two matrices of which engines want parts, beside what ToyPolicy has.
ToyPolicy make_policy() {
  ToyPolicy policy;
  policy.add("query", DType::kF32, {24, 20});
  policy.add("key", DType::kF32, {16, 20});
  policy.add("wide", DType::kBF16, {30, 64});
  return policy;
}

/// Byte `at` of element (row, column) of a published matrix after `step`.
std::byte element_byte(const ToyPolicy& policy, const std::string& name, std::int64_t row,
                       std::int64_t column, std::size_t at, std::uint64_t step) {
  for (std::size_t i = 0; i < policy.tensors.size(); ++i) {
    const TensorInfo& info = policy.tensors[i].info;
    if (info.name != name) continue;
    const auto element = static_cast<std::size_t>(row * info.shape[1] + column);
    return ToyPolicy::expected(i, element * dtype_size(info.dtype) + at, step);
  }
  ADD_FAILURE() << "no tensor " << name;
  return {};
}

/// Where element (row, column) of an engine's matrix comes from.
struct Origin {
  std::string name;
  std::int64_t row;
  std::int64_t column;
};
struct Wanted {
  LayoutTensor tensor;
  std::function<Origin(std::int64_t, std::int64_t)> from;
};

std::vector<Wanted> fused() {
  return {{{"query_key", {40, 20}, {{"query"}, {"key", {}, {}, {24, 0}}}},
           [](std::int64_t row, std::int64_t column) {
             return row < 24 ? Origin{"query", row, column} : Origin{"key", row - 24, column};
           }}};
}
std::vector<Wanted> halves() {
  return {{{"wide.lower", {15, 64}, {{"wide", {15, 0}}}},
           [](std::int64_t row, std::int64_t column) { return Origin{"wide", row + 15, column}; }}};
}
std::vector<Wanted> columns() {
  return {{{"wide.right", {30, 24}, {{"wide", {0, 40}}}},
           [](std::int64_t row, std::int64_t column) { return Origin{"wide", row, column + 40}; }},
          {{"beside", {16, 30}, {{"query", {8, 0}, {16, 10}}, {"key", {}, {}, {0, 10}}}},
           [](std::int64_t row, std::int64_t column) {
             return column < 10 ? Origin{"query", row + 8, column} : Origin{"key", row, column - 10};
           }}};
}

struct Case {
  const char* name;
  std::vector<Wanted> (*wanted)();
  Activation activation;
};

class Layouts : public test::LocalJob, public ::testing::WithParamInterface<Case> {};

TEST_P(Layouts, AreFilledFromTheRanksThatHoldThem) {
  ToyPolicy policy_0 = make_policy(), policy_1 = make_policy();
  test::TwoRanks ranks(publisher_options(), policy_0, policy_1);
  const std::vector<Wanted> wanted = GetParam().wanted();
  SubscriberOptions options = subscriber_options("one");
  options.activation = GetParam().activation;
  for (const Wanted& one : wanted) options.layout.push_back(one.tensor);
  Subscriber engine = follow(options);

  for (std::uint64_t applied = 1; applied <= 3; ++applied) {
    ASSERT_TRUE(ranks.train_until([&] { return engine.status().applied >= applied; }))
        << engine.status().last_failure;
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease) << lease.status().to_string();
    ASSERT_EQ(lease->image().tensors().size(), wanted.size());
    const std::uint64_t step = lease->version().number;  // points and steps are counted alike here
    for (const Wanted& one : wanted) {
      const PlacedTensor* placed = lease->image().find(one.tensor.name);
      ASSERT_NE(placed, nullptr) << one.tensor.name;
      ASSERT_EQ(placed->info.shape, one.tensor.shape);
      const std::size_t size = dtype_size(placed->info.dtype);
      const auto* data = static_cast<const std::byte*>(placed->data);
      for (std::int64_t row = 0; row < one.tensor.shape[0]; ++row) {
        for (std::int64_t column = 0; column < one.tensor.shape[1]; ++column) {
          const Origin from = one.from(row, column);
          for (std::size_t at = 0; at < size; ++at) {
            ASSERT_EQ(*data++, element_byte(policy_0, from.name, from.row, from.column, at, step))
                << one.tensor.name << " (" << row << ", " << column << ") of step " << step;
          }
        }
      }
    }
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Activation activation : {Activation::kFlip, Activation::kStaged, Activation::kSerial}) {
    all.push_back({"Fused", fused, activation});
    all.push_back({"Halves", halves, activation});
    all.push_back({"Columns", columns, activation});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, Layouts, ::testing::ValuesIn(cases()), [](const auto& given) {
  const Activation a = given.param.activation;
  return std::string(given.param.name) + (a == Activation::kFlip     ? "Flip"
                                          : a == Activation::kStaged ? "Staged"
                                                                     : "Serial");
});

class WrongLayout : public test::LocalJob {};

TEST_F(WrongLayout, IsRefusedWithTheTensorThatIsMissing) {
  ToyPolicy policy = make_policy();
  Publisher publisher = open(policy);
  SubscriberOptions options = subscriber_options("one");
  options.layout.push_back({"adapter", {4}, {{"adapter.weight"}}});
  Subscriber engine = follow(options);
  policy.step(1);
  publisher.publish(policy.lister());

  ASSERT_TRUE(eventually([&] { return engine.status().failed > 0; }));
  EXPECT_TRUE(has(engine.status().last_failure, "adapter.weight")) << engine.status().last_failure;
}

}  // namespace
}  // namespace weightcast
