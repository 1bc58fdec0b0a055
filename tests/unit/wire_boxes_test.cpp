// Boxes of sharded tensors on the wire.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "protocol/wire.hpp"

namespace weightcast::protocol {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

Result<Message> round_trip(const Message& message) {
  const std::string bytes = encode(message);
  return decode(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

/// Rows 0 to 6 of "weight" on rank 0, and 6 to 16 on rank 1.
plan::Manifest halves() {
  plan::Manifest manifest;
  for (std::uint32_t rank = 0; rank < 2; ++rank) {
    plan::ShareEntry entry;
    entry.info.name = "weight";
    entry.info.shape = {rank == 0 ? 6 : 10, 3};
    entry.info.global_shape = {16, 3};
    entry.info.origin = {rank == 0 ? 0 : 6, 0};
    plan::Share share;
    share.rank = rank;
    share.object = "object";
    share.payload_bytes = 4096;
    share.entries.push_back(std::move(entry));
    manifest.shares.push_back(std::move(share));
  }
  return manifest;
}

Message prepare(plan::Manifest manifest) {
  Prepare body;
  body.manifest = std::move(manifest);
  return {.run = {},
          .member = {.role = Role::kReceiver, .name = "w", .incarnation = 1},
          .body = std::move(body)};
}

Message sealed(plan::Share share) {
  Sealed body;
  body.share = std::move(share);
  return {.run = {},
          .member = {.role = Role::kSource, .name = "rank-1", .incarnation = 1},
          .body = std::move(body)};
}

void expect_refused(const Message& message, const std::string& words) {
  const auto result = round_trip(message);
  ASSERT_FALSE(result) << "expected a refusal about " << words;
  EXPECT_EQ(result.status().code(), Code::kInvalid);
  EXPECT_NE(result.status().message().find(words), std::string::npos) << result.status().message();
}

TEST(WireBoxes, ComeAsTheyWereSent) {
  const auto in_manifest = round_trip(prepare(halves()));
  const auto in_share = round_trip(sealed(halves().shares[1]));

  ASSERT_TRUE(in_manifest) << in_manifest.status().to_string();
  EXPECT_EQ(std::get<Prepare>(in_manifest->body).manifest, halves());
  ASSERT_TRUE(in_share) << in_share.status().to_string();
  EXPECT_EQ(std::get<Sealed>(in_share->body).share, halves().shares[1]);
}

TEST(WireBoxes, ThatCannotBeAreRefusedInShareAndManifest) {
  const auto refuse = [](const std::string& words, const std::function<void(TensorInfo&)>& spoil) {
    plan::Manifest manifest = halves();
    // On both ranks, so that they do not merely disagree.
    for (plan::Share& share : manifest.shares) spoil(share.entries[0].info);
    expect_refused(prepare(manifest), words);
    expect_refused(sealed(manifest.shares[1]), words);
  };
  refuse("2 and 0", [](TensorInfo& i) { i.origin.clear(); });
  refuse("2 and 1", [](TensorInfo& i) { i.origin.pop_back(); });
  refuse("3 and 2", [](TensorInfo& i) { i.global_shape.push_back(1); });
  refuse("global shape", [](TensorInfo& i) { i.global_shape.clear(); });
  refuse("inside [16, 3]", [](TensorInfo& i) { i.origin[0] += 12; });
  refuse("at [-1, 0]", [](TensorInfo& i) { i.origin[0] = -1; });
  refuse("inside [16, 3]", [](TensorInfo& i) { i.origin[0] = kMost; });
  refuse("63 bits", [](TensorInfo& i) { i.global_shape[0] = kMost; });
  refuse("63 bits", [](TensorInfo& i) { i.global_shape[0] = -16; });
  refuse("at most 16 dimensions", [](TensorInfo& i) { i.origin.assign(100'000, 0); });
  refuse("at most 16 dimensions", [](TensorInfo& i) { i.global_shape.assign(100'000, 1); });
}

TEST(WireBoxes, ThatDoNotMakeATensorAreRefused) {
  const auto refuse = [](const std::string& words, const std::function<void(TensorInfo&)>& spoil) {
    plan::Manifest manifest = halves();
    spoil(manifest.shares[1].entries[0].info);
    expect_refused(prepare(manifest), words);
  };
  refuse("another global shape", [](TensorInfo& i) { i.global_shape[0] = 17; });
  refuse("another dtype", [](TensorInfo& i) { i.dtype = DType::kI32; });
  refuse("another aliases", [](TensorInfo& i) { i.aliases = {"tied"}; });
  refuse("another kind", [](TensorInfo& i) { i.buffer = true; });
  refuse("at least 3 are missing", [](TensorInfo& i) { i.shape[0] = 9; });
  refuse("as much is missing", [](TensorInfo& i) { i.origin[0] = 5; });
  refuse("some overlap", [](TensorInfo& i) { i.shape[0] = 11, i.origin[0] = 5; });
  refuse("'weight' twice", [](TensorInfo& i) { i.global_shape.clear(), i.origin.clear(); });
}

}  // namespace
}  // namespace weightcast::protocol
