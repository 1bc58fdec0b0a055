// Two ranks of a trainer in one process whose policy is sharded by rows and by columns: what they
// capture, put together by a plan, is the policy.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "integration/local_job.hpp"
#include "plan/image_plan.hpp"
#include "plan/shares.hpp"
#include "staging/object_name.hpp"
#include "staging/slot_format.hpp"
#include "staging/slot_reader.hpp"

namespace weightcast {
namespace {

using namespace test;

constexpr std::uint32_t kRanks = 2;

/// Whole tensors in memory, of which each rank lists what it holds.
class ShardedPolicy {
 public:
  enum class Cut { kNone, kRows, kColumns };

  struct Tensor {
    TensorInfo info;  ///< of the whole
    Cut cut = Cut::kNone;
    std::int64_t at = 0;  ///< the first row or column of rank 1
    std::vector<std::byte> bytes;
  };

  ShardedPolicy() {
    add("embed.weight", DType::kF32, {64, 33}, Cut::kColumns, 10);
    add("norm.weight", DType::kF32, {33}, Cut::kNone, 0);
    add("q.weight", DType::kBF16, {40, 33}, Cut::kRows, 15);
    add("k.weight", DType::kBF16, {16, 33}, Cut::kRows, 16);  // rank 1 has none of it
    add("v.weight", DType::kBF16, {16, 33}, Cut::kColumns, 1);
    add("norm.steps", DType::kI64, {}, Cut::kNone, 0);
    tensors.back().info.buffer = true;
    add("head.weight", DType::kF32, {2000, 9}, Cut::kRows, 1999);
    step(0);
  }

  void add(const std::string& name, DType dtype, std::vector<std::int64_t> shape, Cut cut,
           std::int64_t at) {
    Tensor tensor;
    tensor.info.name = name;
    tensor.info.dtype = dtype;
    tensor.info.shape = std::move(shape);
    tensor.cut = cut;
    tensor.at = at;
    tensor.bytes.resize(tensor.info.bytes());
    tensors.push_back(std::move(tensor));
  }

  void step(std::uint64_t number) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      fill_pattern(tensors[i].bytes, 100 * number + i);
    }
  }

  /// A rank's view: rows lie contiguous in the whole, columns do not.
  static TensorView view(Tensor& tensor, std::uint32_t rank) {
    TensorView out{tensor.info, tensor.bytes.data(), {}};
    if (tensor.cut == Cut::kNone) return out;
    const std::size_t d = tensor.cut == Cut::kRows ? 0 : 1;
    const std::int64_t columns = tensor.info.shape[1];
    out.info.global_shape = tensor.info.shape;
    out.info.origin = {0, 0};
    out.strides = {columns, 1};
    out.info.shape[d] = rank == 0 ? tensor.at : tensor.info.shape[d] - tensor.at;
    if (rank == 1) {
      out.info.origin[d] = tensor.at;
      const std::int64_t first = tensor.at * (d == 0 ? columns : 1);
      out.data = tensor.bytes.data() + static_cast<std::size_t>(first) * dtype_size(out.info.dtype);
    }
    return out;
  }

  Publisher::Lister lister(std::uint32_t rank) {
    return [this, rank](TensorList& list) {
      for (Tensor& tensor : tensors) list.tensors.push_back(view(tensor, rank));
      return Status::ok();
    };
  }

  std::vector<TensorInfo> infos(std::uint32_t rank) {
    std::vector<TensorInfo> out;
    for (Tensor& tensor : tensors) out.push_back(view(tensor, rank).info);
    return out;
  }

  Tensor& named(const std::string& name) {
    for (Tensor& tensor : tensors) {
      if (tensor.info.name == name) return tensor;
    }
    throw Error(Status(Code::kNotFound, name));
  }

  std::vector<Tensor> tensors;
};

class Sharded : public LocalJob {
 protected:
  PublisherOptions options_of(std::uint32_t rank) const {
    PublisherOptions options = publisher_options();
    options.rank = rank;
    options.world_size = kRanks;
    options.min_receivers = 0;
    options.compare_every = 1;  // boxes differ between ranks and are no drift
    return options;
  }

  Publisher open_rank(ShardedPolicy& policy, std::uint32_t rank) const {
    auto opened = Publisher::open(options_of(rank), policy.lister(rank));
    if (!opened) throw Error(opened.status());
    return std::move(*opened);
  }

  /// The newest version of a rank's slots, under a lock.
  struct Held {
    std::unique_ptr<staging::SlotReader> reader;
    staging::SlotLock lock;
    std::uint64_t payload_bytes = 0;
  };

  Held hold(std::uint32_t rank, const Version& version) const {
    for (const std::string& name : shm_objects("." + job + ".")) {
      const auto parsed = staging::parse_object_name(name);
      if (!parsed || !parsed->slot || parsed->owner.rank != rank) continue;
      staging::SlotHeader header{};
      std::ifstream file(std::string(staging::kShmDirectory) + "/" + name, std::ios::binary);
      file.read(reinterpret_cast<char*>(&header), sizeof header);
      if (header.number != version.number) continue;
      auto reader = staging::SlotReader::open(name);
      if (!reader) throw Error(reader.status());
      auto lock = (*reader)->lock(version, header.generation, header.payload_bytes);
      if (!lock) throw Error(lock.status());
      return {std::move(*reader), std::move(*lock), header.payload_bytes};
    }
    throw Error(Status(Code::kNotFound,
                       "no slot of rank " + std::to_string(rank) + " holds " + to_string(version)));
  }

  /// What a plan brings from both ranks' slots.
  std::vector<std::byte> carry_out(const plan::ImagePlan& plan, std::vector<Held>& held) const {
    std::vector<std::byte> image(plan.image_bytes);
    for (const plan::PlannedBucket& bucket : plan.buckets) {
      const std::span<const std::byte> payload =
          held[bucket.share].reader->payload().first(held[bucket.share].payload_bytes);
      for (const plan::CopyStrip& strip : bucket.strips) {
        for (std::uint64_t i = 0; i < strip.count; ++i) {
          const auto run = payload.subspan(strip.source + i * strip.source_stride, strip.bytes);
          std::memcpy(image.data() + strip.target + i * strip.target_stride, run.data(),
                      run.size());
        }
      }
    }
    return image;
  }
};

TEST_F(Sharded, WhatTheRanksCaptureIsThePolicy) {
  ShardedPolicy policy;
  Publisher zero = open_rank(policy, 0), one = open_rank(policy, 1);
  ASSERT_TRUE(eventually([&] { return one.status().connected; }));
  std::uint64_t step = 0;
  ASSERT_TRUE(eventually([&] {
    if (!zero.fence() || !one.fence()) return false;
    policy.step(++step);
    const PointResult first = zero.publish(policy.lister(0));
    const PointResult second = one.publish(policy.lister(1));
    return first.kind == PointResult::Kind::kCaptured && second.kind == first.kind;
  }));
  ASSERT_TRUE(eventually([&] { return zero.status().published.number == step; }));
  EXPECT_EQ(zero.status().drifted, 0u);

  std::vector<Held> held;
  plan::Manifest manifest;
  for (std::uint32_t rank = 0; rank < kRanks; ++rank) {
    const auto infos = policy.infos(rank);
    const plan::ShareLayout layout = plan::own_share(infos, rank, kRanks);
    held.push_back(hold(rank, zero.status().published));
    ASSERT_EQ(held.back().payload_bytes, layout.payload_bytes);
    plan::Share share;
    share.rank = rank;
    share.payload_bytes = layout.payload_bytes;
    for (const auto& item : layout.items)
      share.entries.push_back({infos[item.tensor], item.offset, {}});
    manifest.shares.push_back(std::move(share));
  }
  ASSERT_TRUE(plan::check_manifest(manifest)) << plan::check_manifest(manifest).to_string();

  const auto whole = plan::plan_image(manifest, {}, 4096);
  ASSERT_TRUE(whole) << whole.status().to_string();
  const auto image = carry_out(*whole, held);
  ASSERT_EQ(whole->tensors.size(), policy.tensors.size());
  for (const plan::ImageTensor& placed : whole->tensors) {
    const auto& tensor = policy.named(placed.info.name);
    EXPECT_EQ(placed.info, tensor.info);
    EXPECT_EQ(std::memcmp(image.data() + placed.offset, tensor.bytes.data(), tensor.bytes.size()),
              0)
        << placed.info.name;
  }

  // q, k and v as one, of which this engine has the left columns.
  const Layout layout{{"qkv.weight",
                       {72, 20},
                       {{"q.weight", {}, {40, 20}, {}},
                        {"k.weight", {}, {16, 20}, {40, 0}},
                        {"v.weight", {}, {16, 20}, {56, 0}}}}};
  const auto fused = plan::plan_image(manifest, layout, 4096);
  ASSERT_TRUE(fused) << fused.status().to_string();
  const auto qkv = carry_out(*fused, held);
  const std::byte* row = qkv.data();
  for (const char* name : {"q.weight", "k.weight", "v.weight"}) {
    const auto& tensor = policy.named(name);
    for (std::size_t from = 0; from < tensor.bytes.size(); from += 33 * 2, row += 20 * 2) {
      ASSERT_EQ(std::memcmp(row, tensor.bytes.data() + from, 20 * 2), 0) << name;
    }
  }
  EXPECT_EQ(fused->share_bytes[0] + fused->share_bytes[1], 72u * 20 * 2);
}

TEST_F(Sharded, BoxesThatLeaveAGapMakeNoVersion) {
  LogLines log;
  ShardedPolicy policy;
  Publisher zero = open_rank(policy, 0), one = open_rank(policy, 1);
  ASSERT_TRUE(eventually([&] { return one.status().connected; }));
  const Publisher::Lister gap = [&](TensorList& list) {
    const Status status = policy.lister(1)(list);
    --list.tensors[0].info.shape[1];
    return status;
  };

  ASSERT_TRUE(eventually([&] {
    static_cast<void>(zero.fence().is_ok() && one.fence().is_ok());
    zero.publish(policy.lister(0));
    one.publish(gap);
    return log.contain("at least 64 are missing");
  }));

  EXPECT_TRUE(log.contain("'embed.weight'"));
  EXPECT_TRUE(zero.status().published.is_none());
}

TEST_F(Sharded, ABoxOutsideItsTensorIsRefusedAtOnce) {
  ShardedPolicy policy;
  const Publisher::Lister outside = [&](TensorList& list) {
    const Status status = policy.lister(1)(list);
    ++list.tensors[0].info.origin[1];
    return status;
  };

  expect_refusal(
      Publisher::open(options_of(1), outside).status(), Code::kInvalid,
      {"'embed.weight'", "inside [64, 33], got [64, 23] at [0, 11]", "that the trainer lists"});
}

}  // namespace
}  // namespace weightcast
