#include "subscriber/sources.hpp"

#include <gtest/gtest.h>

#include "contract/memory_transport.hpp"

namespace weightcast::subscriber {
namespace {

const Version kWanted{{1, 2}, 3};

plan::Share share_of(const std::string& host, const std::string& endpoint) {
  plan::Share share;
  share.rank = 4;
  share.object = "object";
  share.generation = 5;
  share.payload_bytes = 6;
  share.host = host;
  share.endpoint = endpoint;
  return share;
}

struct Choice {
  const char* name;
  const char* host;
  const char* endpoint;
  TransportChoice wanted;
  const char* expected;  ///< "shm", the endpoint, or words of the refusal
};

class ShareSourceChoice : public ::testing::TestWithParam<Choice> {};

TEST_P(ShareSourceChoice, IsTheBestThatBothEndsShare) {
  const Choice& given = GetParam();
  const auto source = choose_source(share_of(given.host, given.endpoint), kWanted, "",
                                    given.wanted, "here");
  const std::string expected = given.expected;
  if (!source) {
    EXPECT_EQ(source.status().code(), Code::kUnavailable);
    EXPECT_NE(source.status().message().find(expected), std::string::npos)
        << source.status().message();
    return;
  }
  EXPECT_EQ(source->transport == TransportChoice::kShm ? "shm" : source->address.endpoint, expected);
  EXPECT_EQ(source->address.object, "object");
  EXPECT_EQ(source->address.version, kWanted);
  EXPECT_EQ(source->address.generation, 5u);
  EXPECT_EQ(source->address.payload_bytes, 6u);
  EXPECT_FALSE(source->address.from_engine);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, ShareSourceChoice,
    ::testing::Values(
        Choice{"SameHost", "here", "tcp://a:1", TransportChoice::kAuto, "shm"},
        Choice{"NoHost", "", "", TransportChoice::kAuto, "shm"},
        Choice{"SameHostShm", "here", "", TransportChoice::kShm, "shm"},
        Choice{"SameHostTcp", "here", "tcp://a:1", TransportChoice::kTcp, "tcp://a:1"},
        Choice{"OtherHost", "there", "tcp://a:1", TransportChoice::kAuto, "tcp://a:1"},
        Choice{"OtherHostWithoutEndpoint", "there", "", TransportChoice::kAuto,
             "the trainer serves no tcp; set its option listen"},
        Choice{"SameHostTcpWithoutEndpoint", "here", "", TransportChoice::kTcp,
             "no endpoint for transport tcp: the trainer serves no tcp"},
        Choice{"OtherHostShm", "there", "tcp://a:1", TransportChoice::kShm,
             "transport shm reaches one host only"}),
    [](const auto& given) { return std::string(given.param.name); });

class DeviceShareChoice : public ::testing::TestWithParam<Choice> {};

TEST_P(DeviceShareChoice, IsReadWhereItsDeviceIs) {
  const Choice& given = GetParam();
  plan::Share share = share_of(given.host, given.endpoint);
  share.device = "GPU-1";
  share.device_memory = std::string(plan::kDeviceHandleBytes, 'h');
  share.device_offset = 640;
  const auto source = choose_source(share, kWanted, "", given.wanted, "here");
  const std::string expected = given.expected;
  if (!source) {
    EXPECT_EQ(source.status().code(), Code::kUnavailable);
    EXPECT_NE(source.status().message().find(expected), std::string::npos)
        << source.status().message();
    return;
  }
  const bool is_ipc = source->transport == TransportChoice::kCudaIpc;
  EXPECT_EQ(is_ipc ? "cuda_ipc" : source->address.endpoint, expected);
  EXPECT_EQ(source->address.device, is_ipc ? "GPU-1" : "");
  EXPECT_EQ(source->address.device_memory, is_ipc ? share.device_memory : "");
  EXPECT_EQ(source->address.device_offset, is_ipc ? 640u : 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, DeviceShareChoice,
    ::testing::Values(
        Choice{"SameHost", "here", "", TransportChoice::kAuto, "cuda_ipc"},
        Choice{"SameHostAndServed", "here", "tcp://a:1", TransportChoice::kAuto, "cuda_ipc"},
        Choice{"SameHostCudaIpc", "here", "", TransportChoice::kCudaIpc, "cuda_ipc"},
        Choice{"SameHostTcp", "here", "tcp://a:1", TransportChoice::kTcp, "tcp://a:1"},
        Choice{"OtherHost", "there", "tcp://a:1", TransportChoice::kAuto, "tcp://a:1"},
        Choice{"OtherHostWithoutEndpoint", "there", "", TransportChoice::kAuto, "staging to host"},
        Choice{"OtherHostCudaIpc", "there", "tcp://a:1", TransportChoice::kCudaIpc,
             "transport cuda_ipc reaches one host only"},
        Choice{"SameHostShm", "here", "", TransportChoice::kShm, "which transport shm does not read"},
        Choice{"Nccl", "here", "", TransportChoice::kNccl, "does not come over nccl"}),
    [](const auto& given) { return std::string(given.param.name); });

TEST(ShareSourceChoice, SharedMemoryIsNotReadOverCudaIpc) {
  const auto source = choose_source(share_of("here", "tcp://a:1"), kWanted, "",
                                    TransportChoice::kCudaIpc, "here");
  EXPECT_EQ(source.status().code(), Code::kUnavailable);
  EXPECT_NE(source.status().message().find("staging to device"), std::string::npos);
}

struct NcclCase {
  const char* name;
  const char* host;
  const char* offered;  ///< the GPU by which the trainer sends; empty: none
  TransportChoice wanted;
  NcclWay way;
  const char* expected;  ///< a transport, or words of the refusal
};

class NcclChoice : public ::testing::TestWithParam<NcclCase> {};

TEST_P(NcclChoice, IsTakenWhereBothEndsHaveIt) {
  const NcclCase& given = GetParam();
  plan::Share share = share_of(given.host, "tcp://a:1");
  share.nccl_device = given.offered;
  const auto source = choose_source(share, kWanted, "", given.wanted, "here", given.way);
  const std::string expected = given.expected;
  if (!source) {
    EXPECT_EQ(source.status().code(), Code::kUnavailable);
    EXPECT_NE(source.status().message().find(expected), std::string::npos)
        << source.status().message();
    return;
  }
  EXPECT_EQ(describe_sources(std::vector<ShareSource>{*source}, ""), expected);
  const bool is_here = expected == "shm";
  EXPECT_EQ(source->address.endpoint, is_here ? "" : "tcp://a:1");
}

INSTANTIATE_TEST_SUITE_P(
    Cases, NcclChoice,
    ::testing::Values(
        NcclCase{"OtherHost", "there", "GPU-1", TransportChoice::kAuto, {"", "GPU-2"}, "nccl"},
        NcclCase{"SameHost", "here", "GPU-1", TransportChoice::kAuto, {"", "GPU-2"}, "shm"},
        NcclCase{"SameHostNccl", "here", "GPU-1", TransportChoice::kNccl, {"", "GPU-2"}, "nccl"},
        NcclCase{"NotOffered", "there", "", TransportChoice::kAuto, {"", "GPU-2"}, "tcp"},
        NcclCase{"NotOfferedNccl", "there", "", TransportChoice::kNccl, {"", "GPU-2"},
                 "its trainer offers none; set transport to auto"},
        NcclCase{"NotHere", "there", "GPU-1", TransportChoice::kAuto, {"no libnccl"}, "tcp"},
        NcclCase{"NotHereNccl", "there", "GPU-1", TransportChoice::kNccl, {"no libnccl"},
                 "does not come over nccl: no libnccl"},
        NcclCase{"TheTrainersGpu", "there", "GPU-1", TransportChoice::kNccl, {"", "GPU-1"},
                 "the trainer's own GPU"},
        NcclCase{"FellBack", "there", "GPU-1", TransportChoice::kNccl, {"it failed", "GPU-2", true},
                 "tcp"},
        NcclCase{"FellBackHere", "here", "GPU-1", TransportChoice::kNccl,
                 {"it failed", "GPU-2", true}, "shm"},
        NcclCase{"TcpAskedFor", "there", "GPU-1", TransportChoice::kTcp, {"", "GPU-2"}, "tcp"}),
    [](const auto& given) { return std::string(given.param.name); });

TEST(ShareSourceChoice, AnEndpointForNcclAloneIsNotReadOverTcp) {
  plan::Share share = share_of("there", "tcp://a:1");
  share.device = "GPU-1";
  share.nccl_device = "GPU-1";
  const auto source = choose_source(share, kWanted, "", TransportChoice::kAuto, "here");
  EXPECT_EQ(source.status().code(), Code::kUnavailable);
  EXPECT_NE(source.status().message().find("staging to host"), std::string::npos)
      << source.status().message();
}

TEST(ShareSourceChoice, ARelayServesAllShares) {
  const auto source = choose_source(share_of("here", "tcp://a:1"), kWanted, "tcp://engine:2",
                                    TransportChoice::kAuto, "here");
  ASSERT_TRUE(source);
  EXPECT_EQ(source->address.endpoint, "tcp://engine:2");
  EXPECT_TRUE(source->address.from_engine);
  EXPECT_EQ(choose_source(share_of("here", ""), kWanted, "tcp://engine:2", TransportChoice::kShm,
                          "here")
                .status()
                .code(),
            Code::kUnavailable);
}

/// Two transports of memory under the names of the real ones, and how often each was opened.
class SourcesTest : public ::testing::Test {
 protected:
  SourcesTest() : sources(set(), TransportChoice::kAuto, {1, 4}) {
    for (const char* object : {"object", "other"}) {
      board->put(object, kWanted, 6, [](std::span<std::byte>) {});
    }
  }

  TransportSet set() {
    const auto open_counted = [this](int& count) {
      return [this, &count]() -> Result<std::shared_ptr<transport::Transport>> {
        ++count;
        return std::shared_ptr<transport::Transport>(
            std::make_shared<transport::MemoryTransport>(board));
      };
    };
    return {"here", open_counted(shm), open_counted(tcp)};
  }

  plan::Manifest manifest(const std::string& host_of_second) const {
    plan::Manifest manifest;
    manifest.shares = {share_of("here", "tcp://a:1"), share_of(host_of_second, "tcp://b:1")};
    manifest.shares[1].rank = 5;
    manifest.shares[1].object = "other";
    for (plan::Share& share : manifest.shares) share.generation = 1;
    return manifest;
  }

  std::shared_ptr<transport::MemoryBoard> board = std::make_shared<transport::MemoryBoard>();
  int shm = 0;
  int tcp = 0;
  Sources sources;
};

TEST_F(SourcesTest, OpensEachTransportOnceAndOneLaneASource) {
  const auto chosen = sources.choose(kWanted, manifest("there"), "");
  ASSERT_TRUE(chosen) << chosen.status().to_string();
  EXPECT_EQ(describe_sources(*chosen, ""), "shm and tcp");
  const auto first = sources.open(4, (*chosen)[0]);
  const auto second = sources.open(5, (*chosen)[1]);
  const auto again = sources.open(5, (*chosen)[1]);
  ASSERT_TRUE(first && second && again);

  EXPECT_NE(first->lane, second->lane);
  EXPECT_EQ(second->lane, again->lane);
  EXPECT_EQ(shm, 1);
  EXPECT_EQ(tcp, 1);
}

TEST_F(SourcesTest, ARelayIsOneLaneForAllShares) {
  const auto chosen = sources.choose(kWanted, manifest("here"), "tcp://engine:2");
  ASSERT_TRUE(chosen);
  EXPECT_EQ(describe_sources(*chosen, "tcp://engine:2"), "tcp from tcp://engine:2");
  const auto first = sources.open(4, (*chosen)[0]);
  const auto second = sources.open(5, (*chosen)[1]);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->lane, second->lane);
  EXPECT_EQ(shm, 0);
}

TEST_F(SourcesTest, SaysWhichShareHasNoWay) {
  plan::Manifest wrong = manifest("there");
  wrong.shares[1].endpoint.clear();
  const auto chosen = sources.choose(kWanted, wrong, "");
  ASSERT_EQ(chosen.status().code(), Code::kUnavailable);
  EXPECT_NE(chosen.status().message().find("rank 5"), std::string::npos);
}

TEST_F(SourcesTest, WithoutATransportTheMessageNamesIt) {
  Sources only_shm({"here", set().shm, {}}, TransportChoice::kAuto, {1, 4});
  const auto chosen = only_shm.choose(kWanted, manifest("there"), "");
  ASSERT_TRUE(chosen);
  const auto opened = only_shm.open(5, (*chosen)[1]);
  ASSERT_EQ(opened.status().code(), Code::kUnavailable);
  EXPECT_NE(opened.status().message().find("no transport tcp"), std::string::npos);
}

}  // namespace
}  // namespace weightcast::subscriber
