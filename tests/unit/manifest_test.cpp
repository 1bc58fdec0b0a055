#include "plan/manifest.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <utility>

namespace weightcast::plan {
namespace {

ShareEntry bytes_entry(const std::string& name, std::uint64_t offset, std::vector<std::int64_t> shape,
                 DType dtype = DType::kF32) {
  ShareEntry e;
  e.info.name = name;
  e.info.dtype = dtype;
  e.info.shape = std::move(shape);
  e.offset = offset;
  return e;
}

Share good_share(std::uint32_t rank = 0, const std::string& prefix = "") {
  Share share;
  share.rank = rank;
  share.object = "slot";
  share.entries = {bytes_entry(prefix + "weight", 0, {4, 5}), bytes_entry(prefix + "bias", 128, {5}),
                   bytes_entry(prefix + "empty", 192, {0, 7}), bytes_entry(prefix + "scale", 192, {})};
  share.entries[0].info.aliases = {prefix + "tied"};
  share.payload_bytes = 196;
  return share;
}

// Changes a good share and expects it to be refused with a message that holds `words`.
void expect_refused(const std::string& words, const std::function<void(Share&)>& change) {
  Share share = good_share();
  change(share);

  const Status status = check_share(share);

  EXPECT_EQ(status.code(), Code::kInvalid) << words;
  EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
}

TEST(CheckShare, AcceptsAGoodOne) {
  EXPECT_TRUE(check_share(good_share()).is_ok()) << check_share(good_share()).to_string();
}

TEST(CheckShare, AcceptsAnEmptyOne) { EXPECT_TRUE(check_share(Share{}).is_ok()); }

TEST(CheckShare, AcceptsEntriesInAnyOrder) {
  Share share = good_share();
  std::swap(share.entries[0], share.entries[1]);

  EXPECT_TRUE(check_share(share).is_ok());
}

TEST(CheckShare, RefusesShapesThatOverflow) {
  const std::int64_t big = std::int64_t{1} << 32;
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{big, big}, {most}, {most, 2}, {big, big, 0}, {most, most, most},
        {std::int64_t{1} << 61}}) {
    expect_refused("63 bits", [&](Share& s) { s.entries[1].info.shape = shape; });
  }
}

TEST(CheckShare, RefusesNegativeDimensions) {
  expect_refused("got -1", [](Share& s) { s.entries[0].info.shape = {-1, -20}; });
  expect_refused("dimensions of 0 or more", [](Share& s) {
    s.entries[0].info.shape = {0, std::numeric_limits<std::int64_t>::min()};
  });
}

TEST(CheckShare, RefusesTooManyDimensions) {
  expect_refused("at most 16 dimensions", [](Share& s) { s.entries[0].info.shape.assign(17, 1); });
}

TEST(CheckShare, RefusesUnknownDtypes) {
  expect_refused("unknown dtype 0", [](Share& s) { s.entries[0].info.dtype = DType{0}; });
  expect_refused("unknown dtype 200", [](Share& s) { s.entries[0].info.dtype = DType{200}; });
}

TEST(CheckShare, RefusesBadNames) {
  expect_refused("empty", [](Share& s) { s.entries[1].info.name = ""; });
  expect_refused("1024 bytes", [](Share& s) { s.entries[1].info.name.assign(1025, 'n'); });
  expect_refused("NUL", [](Share& s) { s.entries[1].info.name = std::string("a\0b", 3); });
  expect_refused("empty", [](Share& s) { s.entries[1].info.aliases = {""}; });
  expect_refused("1024 bytes", [](Share& s) { s.object.assign(1025, 'o'); });
}

TEST(CheckShare, RefusesNamesAndAliasesThatStandTwice) {
  expect_refused("'weight' twice", [](Share& s) { s.entries[1].info.name = "weight"; });
  expect_refused("'tied' twice", [](Share& s) { s.entries[1].info.name = "tied"; });
  expect_refused("'weight' twice", [](Share& s) { s.entries[1].info.aliases = {"weight"}; });
  expect_refused("'weight' twice", [](Share& s) { s.entries[0].info.aliases = {"weight"}; });
  expect_refused("'x' twice", [](Share& s) { s.entries[0].info.aliases = {"x", "x"}; });
}

TEST(CheckShare, RefusesPlacesThatAreWrong) {
  expect_refused("multiple of 64", [](Share& s) { s.entries[1].offset = 132; });
  expect_refused("inside the payload", [](Share& s) { s.payload_bytes = 195; });
  expect_refused("inside the payload", [](Share& s) { s.entries[3].offset = 1 << 20; });
  expect_refused("inside the payload", [](Share& s) { s.entries[2].offset = 256; });
  expect_refused("inside the payload", [](Share& s) {
    s.entries[3].offset = std::numeric_limits<std::uint64_t>::max() / 64 * 64;
  });
  expect_refused("63 bits", [](Share& s) {
    s.payload_bytes = std::numeric_limits<std::uint64_t>::max();
  });
}

TEST(CheckShare, RefusesOverlaps) {
  expect_refused("overlaps tensor 'weight'", [](Share& s) { s.entries[1].offset = 64; });
  expect_refused("overlaps", [](Share& s) { s.entries[3].offset = 128; });
}

TEST(CheckShare, RefusesMoreTensorsThanAnyPolicyHas) {
  Share share;
  share.entries.resize(kMaxTensors + 1);

  EXPECT_EQ(check_share(share).code(), Code::kInvalid);
}

TEST(CheckShare, RefusesMoreAliasesThanAnyPolicyHas) {
  Share share;
  share.entries.push_back(bytes_entry("w", 0, {0}));
  for (std::size_t i = 0; i < kMaxTensors; ++i) {
    share.entries[0].info.aliases.push_back(std::to_string(i));
  }

  const Status status = check_share(share);

  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find("at most 1000000"), std::string::npos) << status.message();
}

TEST(CheckShare, MessagesHoldNothingThatBreaksALine) {
  Share share = good_share();
  share.entries[0].info.name = "evil\n\x1b[2J" + std::string(900, 'x');
  share.entries[0].offset = 1;

  const std::string message = check_share(share).message();

  EXPECT_EQ(message.find_first_of("\n\x1b"), std::string::npos);
  EXPECT_LT(message.size(), 500u);
}

TEST(CheckManifest, AcceptsCompleteShares) {
  Manifest manifest;
  manifest.shares = {good_share(0, "a."), good_share(1, "b."), Share{}};
  manifest.shares[2].rank = 2;

  EXPECT_TRUE(check_manifest(manifest).is_ok()) << check_manifest(manifest).to_string();
  EXPECT_EQ(manifest.tensor_count(), 8u);
  EXPECT_EQ(manifest.bytes(), 2u * (80 + 20 + 0 + 4));
}

TEST(CheckManifest, RefusesOneWithoutShares) {
  EXPECT_EQ(check_manifest(Manifest{}).code(), Code::kInvalid);
}

TEST(CheckManifest, RefusesRanksThatAreMissingTwiceOrUnsorted) {
  for (const auto& [first, second] : {std::pair<std::uint32_t, std::uint32_t>{0, 2}, {0, 0},
                                      {1, 0}, {1, 2}}) {
    Manifest manifest;
    manifest.shares = {good_share(first, "a."), good_share(second, "b.")};

    EXPECT_EQ(check_manifest(manifest).code(), Code::kInvalid) << first << " " << second;
  }
}

TEST(CheckManifest, RefusesATensorInTwoShares) {
  Manifest manifest;
  manifest.shares = {good_share(0, "a."), good_share(1, "b.")};
  manifest.shares[1].entries[1].info.aliases = {"a.tied"};

  const Status status = check_manifest(manifest);

  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find("'a.tied' twice"), std::string::npos) << status.message();
}

TEST(CheckManifest, RefusesABadShare) {
  Manifest manifest;
  manifest.shares = {good_share()};
  manifest.shares[0].entries[0].offset = 1;

  EXPECT_EQ(check_manifest(manifest).code(), Code::kInvalid);
}

TEST(CheckManifest, RefusesPayloadsWhoseSumOverflows) {
  Manifest manifest;
  for (std::uint32_t rank = 0; rank < 3; ++rank) {
    Share share;
    share.rank = rank;
    share.payload_bytes = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    manifest.shares.push_back(share);
  }

  EXPECT_EQ(check_manifest(manifest).code(), Code::kInvalid);
}

}  // namespace
}  // namespace weightcast::plan
