// Random policies and layouts, planned, carried out on real bytes, and compared with taking each
// element by itself.
#include "plan/image_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "unit/random_policy.hpp"

namespace weightcast::plan {
namespace {

constexpr int kRounds = 1500;

std::uint64_t fresh_seed(const char* test) {
  const std::uint64_t seed = std::random_device{}();
  std::printf("%s seed=%llu\n", test, static_cast<unsigned long long>(seed));
  return seed;
}

/// What a plan does when it is carried out on real bytes.
struct Outcome {
  std::vector<std::byte> image;
  std::vector<unsigned> written;             ///< how often, by byte of the image
  std::vector<std::vector<unsigned>> reads;  ///< by share and byte of its payload
};

// Fails on whatever leaves a payload or the image.
void carry_out(const ImagePlan& plan, const RandomPolicy& policy, Outcome& out) {
  out.image.assign(plan.image_bytes, std::byte{0xEE});
  out.written.assign(plan.image_bytes, 0);
  for (const auto& payload : policy.payloads) out.reads.emplace_back(payload.size(), 0);
  for (const PlannedBucket& bucket : plan.buckets) {
    ASSERT_LT(bucket.share, policy.payloads.size());
    ASSERT_GT(bucket.bytes, 0u);
    const auto& payload = policy.payloads[bucket.share];
    std::uint64_t bytes = 0;
    for (const CopyStrip& strip : bucket.strips) {
      ASSERT_GT(strip.count, 0u);
      if (strip.count == 1) {
        ASSERT_EQ(strip.source_stride, 0u);
        ASSERT_EQ(strip.target_stride, 0u);
      }
      for (std::uint64_t i = 0; i < strip.count; ++i) {
        const std::uint64_t from = strip.source + i * strip.source_stride;
        const std::uint64_t to = strip.target + i * strip.target_stride;
        ASSERT_LE(from + strip.bytes, payload.size());
        ASSERT_LE(to + strip.bytes, out.image.size());
        std::memcpy(&out.image[to], &payload[from], strip.bytes);
        for (std::uint64_t b = 0; b < strip.bytes; ++b) {
          ++out.written[to + b];
          ++out.reads[bucket.share][from + b];
        }
        bytes += strip.bytes;
      }
    }
    ASSERT_EQ(bytes, bucket.bytes);
  }
}

bool lies_at(const Outcome& outcome, std::uint64_t offset, std::span<const std::byte> bytes) {
  const auto placed = std::span(outcome.image).subspan(offset, bytes.size());
  return std::equal(placed.begin(), placed.end(), bytes.begin());
}

bool equal(const ImagePlan& x, const ImagePlan& y) {
  const auto each = [](const auto& a, const auto& b, auto same) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), same);
  };
  return x.image_bytes == y.image_bytes && x.share_bytes == y.share_bytes &&
         each(x.tensors, y.tensors,
              [](const ImageTensor& a, const ImageTensor& b) {
                return a.info == b.info && a.offset == b.offset;
              }) &&
         each(x.buckets, y.buckets,
              [](const PlannedBucket& a, const PlannedBucket& b) {
                return a.share == b.share && a.strips == b.strips && a.bytes == b.bytes;
              }) &&
         each(x.whole, y.whole, [](const WholeEntry& a, const WholeEntry& b) {
           return a.share == b.share && a.entry == b.entry && a.target == b.target;
         });
}

/// The bytes of a layout's tensor, taken one element at a time.
std::vector<std::byte> reference(const LayoutTensor& wanted, const RandomPolicy& policy) {
  std::vector<std::byte> out;
  for (const LayoutPiece& piece : wanted.pieces) {
    const WholeTensor& source = policy.named(piece.source);
    const std::size_t element = dtype_size(source.info.dtype);
    Numbers shape = piece.shape;
    if (shape.empty()) {
      shape = source.info.shape;
      for (std::size_t d = 0; d < piece.source_origin.size(); ++d)
        shape[d] -= piece.source_origin[d];
    }
    std::size_t bytes = element;
    for (const std::int64_t d : wanted.shape) bytes *= static_cast<std::size_t>(d);
    out.resize(bytes);
    each_index(shape, [&](const Numbers& index) {
      const std::size_t from = place_of(sum(index, piece.source_origin), source.info.shape);
      const std::size_t to = place_of(sum(index, piece.origin), wanted.shape);
      std::memcpy(&out[to * element], &source.bytes[from * element], element);
    });
  }
  return out;
}

/// By share and byte of its payload: whether some piece needs what is there.
std::vector<std::vector<bool>> needed(const Layout& layout, const RandomPolicy& policy) {
  std::vector<std::vector<bool>> out;
  for (std::size_t s = 0; s < policy.payloads.size(); ++s) {
    out.emplace_back(policy.payloads[s].size(), false);
    for (const ShareEntry& entry : policy.manifest.shares[s].entries) {
      const WholeTensor& whole = policy.named(entry.info.name);
      const std::size_t element = dtype_size(entry.info.dtype);
      std::vector<bool> wanted(static_cast<std::size_t>(whole.info.elements()), false);
      for (const LayoutTensor& tensor : layout) {
        for (const LayoutPiece& piece : tensor.pieces) {
          if (&policy.named(piece.source) != &whole) continue;
          Numbers shape = piece.shape;
          if (shape.empty()) {
            shape = whole.info.shape;
            for (std::size_t d = 0; d < piece.source_origin.size(); ++d) {
              shape[d] -= piece.source_origin[d];
            }
          }
          each_index(shape, [&](const Numbers& index) {
            wanted[place_of(sum(index, piece.source_origin), whole.info.shape)] = true;
          });
        }
      }
      std::size_t at = entry.offset;
      each_index(entry.info.shape, [&](const Numbers& index) {
        if (wanted[place_of(sum(index, entry.info.origin), whole.info.shape)]) {
          std::fill_n(out[s].begin() + static_cast<std::ptrdiff_t>(at), element, true);
        }
        at += element;
      });
    }
  }
  return out;
}

std::uint64_t random_bucket_bytes(PolicyMaker& maker) {
  const std::uint64_t sizes[] = {1, 24, 100, 128, 1000, 4096, 1 << 20};
  return sizes[maker.below(std::size(sizes))];
}

// What must hold for any plan.
void expect_sound(const ImagePlan& plan, const Outcome& outcome, const RandomPolicy& policy,
                  std::uint64_t bucket_bytes) {
  std::vector<std::uint64_t> share_bytes(policy.payloads.size(), 0);
  for (const PlannedBucket& bucket : plan.buckets) {
    share_bytes[bucket.share] += bucket.bytes;
    ASSERT_LE(bucket.strips.size(), kMaxBucketStrips);
    if (bucket.bytes > bucket_bytes) {  // a single element, larger than that
      ASSERT_LE(bucket.bytes, 8u);
      ASSERT_EQ(bucket.strips.size(), 1u);
      ASSERT_EQ(bucket.strips[0].count, 1u);
    }
  }
  ASSERT_EQ(plan.share_bytes, share_bytes);
  for (const unsigned times : outcome.written) ASSERT_LE(times, 1u) << "written twice";
  std::uint64_t end = 0;
  for (const ImageTensor& tensor : plan.tensors) {
    ASSERT_FALSE(tensor.info.is_box());
    ASSERT_EQ(tensor.offset % kAlignment, 0u);
    ASSERT_LE(tensor.offset + tensor.info.bytes(), plan.image_bytes);
    for (std::size_t b = 0; b < tensor.info.bytes(); ++b) {
      ASSERT_EQ(outcome.written[tensor.offset + b], 1u) << tensor.info.name << " byte " << b;
    }
    end = std::max(end, tensor.offset + tensor.info.bytes());
  }
  ASSERT_LT(plan.image_bytes - end, kAlignment + (policy.payloads.size() + 1) * 4 * kAlignment);
  for (const WholeEntry& whole : plan.whole) {
    const ShareEntry& entry = policy.manifest.shares[whole.share].entries[whole.entry];
    const std::span payload(policy.payloads[whole.share]);
    ASSERT_TRUE(lies_at(outcome, whole.target, payload.subspan(entry.offset, entry.info.bytes())))
        << entry.info.name;
    if (bucket_bytes < kAlignment) continue;
    for (const PlannedBucket& bucket : plan.buckets) {
      for (const CopyStrip& strip : bucket.strips) {
        const std::uint64_t in_entry = strip.target - whole.target;
        if (in_entry < entry.info.bytes()) {
          ASSERT_EQ(in_entry % 8, 0u) << "a word of a digest is cut";
        }
      }
    }
  }
}

std::uint64_t tensor_bytes(const ImagePlan& plan) {
  std::uint64_t bytes = 0;
  for (const ImageTensor& tensor : plan.tensors) bytes += tensor.info.bytes();
  return bytes;
}

std::uint64_t read_bytes(const ImagePlan& plan) {
  return std::accumulate(plan.share_bytes.begin(), plan.share_bytes.end(), std::uint64_t{0});
}

TEST(PlanImage, WholeSharesStayAsTheyAre) {
  const std::uint64_t seed = fresh_seed("WholeSharesStayAsTheyAre");
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    PolicyMaker maker(seed + static_cast<std::uint64_t>(round));
    const RandomPolicy policy = maker.policy(false);
    const std::uint64_t bucket_bytes = random_bucket_bytes(maker);

    const auto plan = plan_image(policy.manifest, {}, bucket_bytes);
    ASSERT_TRUE(plan) << plan.status().to_string();
    Outcome outcome;
    ASSERT_NO_FATAL_FAILURE(carry_out(*plan, policy, outcome));

    ASSERT_NO_FATAL_FAILURE(expect_sound(*plan, outcome, policy, bucket_bytes));
    ASSERT_EQ(plan->whole.size(), policy.manifest.tensor_count());
    std::uint64_t base = 0;
    std::size_t at = 0;
    for (const Share& share : policy.manifest.shares) {
      for (const ShareEntry& entry : share.entries) {
        ASSERT_EQ(plan->tensors[at].info, entry.info);
        ASSERT_EQ(plan->tensors[at].offset, base + entry.offset);
        ASSERT_EQ(plan->whole[at].target, base + entry.offset);
        ++at;
      }
      base += (share.payload_bytes + kAlignment - 1) / kAlignment * kAlignment;
    }
    ASSERT_EQ(at, plan->tensors.size());
    ASSERT_EQ(plan->image_bytes, base);
  }
}

TEST(PlanImage, BoxesArePutTogether) {
  const std::uint64_t seed = fresh_seed("BoxesArePutTogether");
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    PolicyMaker maker(seed + static_cast<std::uint64_t>(round));
    const RandomPolicy policy = maker.policy(true);
    const std::uint64_t bucket_bytes = random_bucket_bytes(maker);

    const auto plan = plan_image(policy.manifest, {}, bucket_bytes);
    ASSERT_TRUE(plan) << plan.status().to_string();
    Outcome outcome;
    ASSERT_NO_FATAL_FAILURE(carry_out(*plan, policy, outcome));

    ASSERT_NO_FATAL_FAILURE(expect_sound(*plan, outcome, policy, bucket_bytes));
    ASSERT_EQ(plan->tensors.size(), policy.tensors.size());
    for (const ImageTensor& placed : plan->tensors) {
      const WholeTensor& whole = policy.named(placed.info.name);
      ASSERT_EQ(placed.info, whole.info);
      ASSERT_TRUE(lies_at(outcome, placed.offset, whole.bytes)) << placed.info.name;
    }
  }
}

TEST(PlanImage, LayoutsGetTheirBytesAndNoOthers) {
  const std::uint64_t seed = fresh_seed("LayoutsGetTheirBytesAndNoOthers");
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    PolicyMaker maker(seed + static_cast<std::uint64_t>(round));
    const RandomPolicy policy = maker.policy(maker.below(4) > 0);
    const Layout layout = maker.layout(policy);
    const std::uint64_t bucket_bytes = random_bucket_bytes(maker);

    const auto plan = plan_image(policy.manifest, layout, bucket_bytes);
    ASSERT_TRUE(plan) << plan.status().to_string();
    Outcome outcome;
    ASSERT_NO_FATAL_FAILURE(carry_out(*plan, policy, outcome));

    ASSERT_NO_FATAL_FAILURE(expect_sound(*plan, outcome, policy, bucket_bytes));
    ASSERT_EQ(plan->tensors.size(), layout.size());
    for (std::size_t i = 0; i < layout.size(); ++i) {
      const std::vector<std::byte> expected = reference(layout[i], policy);
      ASSERT_EQ(plan->tensors[i].info.name, layout[i].name);
      ASSERT_EQ(plan->tensors[i].info.shape, layout[i].shape);
      ASSERT_EQ(plan->tensors[i].info.bytes(), expected.size());
      ASSERT_TRUE(lies_at(outcome, plan->tensors[i].offset, expected)) << layout[i].name;
    }
    ASSERT_EQ(read_bytes(*plan), tensor_bytes(*plan));
    const auto wanted = needed(layout, policy);
    for (std::size_t s = 0; s < wanted.size(); ++s) {
      for (std::size_t b = 0; b < wanted[s].size(); ++b) {
        ASSERT_TRUE(wanted[s][b] || outcome.reads[s][b] == 0) << "share " << s << " byte " << b;
      }
    }
  }
}

TEST(PlanImage, TheSameInputGivesTheSamePlan) {
  const std::uint64_t seed = fresh_seed("TheSameInputGivesTheSamePlan");
  for (int round = 0; round < 100; ++round) {
    PolicyMaker maker(seed + static_cast<std::uint64_t>(round));
    const RandomPolicy policy = maker.policy(true);
    const Layout layout = maker.below(2) == 0 ? Layout{} : maker.layout(policy);
    const Manifest copy = policy.manifest;

    const auto once = plan_image(policy.manifest, layout, 1000);
    const auto again = plan_image(copy, layout, 1000);

    ASSERT_TRUE(once) << once.status().to_string();
    ASSERT_TRUE(again) << again.status().to_string();
    ASSERT_TRUE(equal(*once, *again)) << "seed " << seed << ", round " << round;
  }
}

}  // namespace
}  // namespace weightcast::plan
