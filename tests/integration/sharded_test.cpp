// A policy that two ranks hold by boxes, and engines that want it whole, by halves the other way, and
// fused.
#include <gtest/gtest.h>

#include <functional>

#include "integration/local_job.hpp"
#include "integration/two_ranks.hpp"

namespace weightcast {
namespace {

using test::has;
using test::soon;
using test::ToyPolicy;
using Shape = std::vector<std::int64_t>;

void add_box(ToyPolicy& policy, const std::string& name, DType dtype, Shape shape, Shape global,
             Shape origin) {
  policy.add(name, dtype, std::move(shape));
  policy.tensors.back().info.global_shape = std::move(global);
  policy.tensors.back().info.origin = std::move(origin);
}

/// "rows" is cut between rows 24 and 25 of 40, "columns" between columns 10 and 11 of 30.
ToyPolicy policy_of(int rank) {
  ToyPolicy policy;
  add_box(policy, "rows", DType::kF32, {rank == 0 ? 24 : 16, 22}, {40, 22}, {rank == 0 ? 0 : 24, 0});
  add_box(policy, "columns", DType::kBF16, {18, rank == 0 ? 10 : 20}, {18, 30},
          {0, rank == 0 ? 0 : 10});
  return policy;
}

class Sharded : public test::LocalJob {
 protected:
  /// Byte `at` of element (row, column) of a sharded tensor after `step`, from the rank that has it.
  std::byte element_byte(const std::string& name, std::int64_t row, std::int64_t column,
                         std::size_t at, std::uint64_t step) const {
    for (const ToyPolicy* policy : {&policy_0, &policy_1}) {
      for (std::size_t i = 0; i < policy->tensors.size(); ++i) {
        const TensorInfo& info = policy->tensors[i].info;
        if (info.name != name) continue;
        const std::int64_t r = row - info.origin[0], c = column - info.origin[1];
        if (r < 0 || r >= info.shape[0] || c < 0 || c >= info.shape[1]) continue;
        const auto element = static_cast<std::size_t>(r * info.shape[1] + c);
        return ToyPolicy::expected(i, element * dtype_size(info.dtype) + at, step);
      }
    }
    ADD_FAILURE() << "nobody has " << name << " (" << row << ", " << column << ")";
    return {};
  }

  struct Origin {
    std::string name;
    std::int64_t row;
    std::int64_t column;
  };
  void expect_matrix(const PolicyImage& image, const std::string& name, Shape shape,
                     std::uint64_t step,
                     const std::function<Origin(std::int64_t, std::int64_t)>& from) const {
    const PlacedTensor* placed = image.find(name);
    ASSERT_NE(placed, nullptr) << name;
    ASSERT_EQ(placed->info.shape, shape) << name;
    EXPECT_FALSE(placed->info.is_box()) << name;
    const std::size_t size = dtype_size(placed->info.dtype);
    const auto* data = static_cast<const std::byte*>(placed->data);
    for (std::int64_t row = 0; row < shape[0]; ++row) {
      for (std::int64_t column = 0; column < shape[1]; ++column) {
        const Origin origin = from(row, column);
        for (std::size_t at = 0; at < size; ++at) {
          ASSERT_EQ(*data++, element_byte(origin.name, origin.row, origin.column, at, step))
              << name << " (" << row << ", " << column << ") of step " << step;
        }
      }
    }
  }

  ToyPolicy policy_0 = policy_of(0);
  ToyPolicy policy_1 = policy_of(1);
};

TEST_F(Sharded, ComesWholeByHalvesTheOtherWayAndFused) {
  test::TwoRanks ranks(publisher_options(), policy_0, policy_1);
  std::vector<Subscriber> whole;
  whole.push_back(follow("whole-auto"));
  for (const auto& [name, activation] : {std::pair{"whole-staged", Activation::kStaged},
                                         std::pair{"whole-serial", Activation::kSerial}}) {
    SubscriberOptions options = subscriber_options(name);
    options.activation = activation;
    whole.push_back(follow(options));
  }
  SubscriberOptions options = subscriber_options("halves");
  options.layout = {{"rows.right", {40, 11}, {{"rows", {0, 11}}}},
                    {"columns.lower", {9, 30}, {{"columns", {9, 0}}}}};
  Subscriber halves = follow(options);
  options = subscriber_options("fused");
  options.activation = Activation::kSerial;
  options.layout = {{"both", {40, 44}, {{"rows"}, {"rows", {}, {}, {0, 22}}}}};
  Subscriber fused = follow(options);

  const auto as_is = [](const std::string& name) {
    return [name](std::int64_t row, std::int64_t column) { return Origin{name, row, column}; };
  };
  for (std::uint64_t applied = 1; applied <= 3; ++applied) {
    ASSERT_TRUE(ranks.train_until([&] {
      bool all = halves.status().applied >= applied && fused.status().applied >= applied;
      for (Subscriber& engine : whole) all = all && engine.status().applied >= applied;
      return all;
    })) << whole[0].status().last_failure << halves.status().last_failure;
    for (Subscriber& engine : whole) {
      const auto lease = engine.acquire(soon());
      ASSERT_TRUE(lease) << lease.status().to_string();
      const std::uint64_t step = lease->version().number;
      expect_matrix(lease->image(), "rows", {40, 22}, step, as_is("rows"));
      expect_matrix(lease->image(), "columns", {18, 30}, step, as_is("columns"));
    }
    const auto half = halves.acquire(soon());
    ASSERT_TRUE(half) << half.status().to_string();
    expect_matrix(half->image(), "rows.right", {40, 11}, half->version().number,
                  [](auto row, auto column) { return Origin{"rows", row, column + 11}; });
    expect_matrix(half->image(), "columns.lower", {9, 30}, half->version().number,
                  [](auto row, auto column) { return Origin{"columns", row + 9, column}; });
    const auto both = fused.acquire(soon());
    ASSERT_TRUE(both) << both.status().to_string();
    expect_matrix(both->image(), "both", {40, 44}, both->version().number,
                  [](auto row, auto column) { return Origin{"rows", row, column % 22}; });
  }
  EXPECT_EQ(whole[0].status().activation, Activation::kFlip);
  EXPECT_TRUE(has(whole[0].status().activation_reason, "is sharded"))
      << whole[0].status().activation_reason;
}

}  // namespace
}  // namespace weightcast
