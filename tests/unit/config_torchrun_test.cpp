// What torchrun's environment makes of a trainer, on one node and on several; and combinations that
// cannot work.
#include <gtest/gtest.h>

#include "unit/config_fixture.hpp"

namespace weightcast {
namespace {

using namespace std::chrono_literals;

class TorchrunTest : public test::ConfigTest {
 protected:
  /// As torchrun sets it for `rank` of nodes of `local_size` ranks each.
  void start(std::uint32_t rank, std::uint32_t world_size, std::uint32_t local_size) {
    environment.set("RANK", std::to_string(rank));
    environment.set("WORLD_SIZE", std::to_string(world_size));
    environment.set("LOCAL_RANK", std::to_string(rank % local_size));
    environment.set("LOCAL_WORLD_SIZE", std::to_string(local_size));
    environment.set("GROUP_RANK", std::to_string(rank / local_size));
    environment.set("MASTER_ADDR", "node-0.example");
    environment.set("MASTER_PORT", "29500");
    environment.set("TORCHELASTIC_RUN_ID", "run");
    environment.set("TORCHELASTIC_RESTART_COUNT", "2");
  }
  PublisherOptions configured(const ConfigSources& sources, PublisherOptions defaults = {}) {
    auto options = configure(std::move(defaults), sources);
    EXPECT_TRUE(options) << options.status().to_string();
    return options ? *options : PublisherOptions();
  }
  const ConfigSources with_keys{{"keys=/keys"}, {}};
};

TEST_F(TorchrunTest, OnOneNodeEveryRankIsOfThisHost) {
  for (std::uint32_t rank : {0u, 1u, 3u}) {
    start(rank, 4, 4);
    const PublisherOptions options = configured({});
    EXPECT_EQ(options.rank, rank);
    EXPECT_EQ(options.world_size, 4u);
    EXPECT_EQ(options.launch, "run.2");
    EXPECT_EQ(options.listen, "");
    EXPECT_EQ(options.coordinator, "");
  }
  EXPECT_EQ(row(describe_config(PublisherOptions(), {}), "rank").source, ConfigSource::kTorchrun);
  EXPECT_EQ(row(describe_config(PublisherOptions(), {}), "launch").origin,
            "torchrun's TORCHELASTIC_RUN_ID and TORCHELASTIC_RESTART_COUNT");
}

TEST_F(TorchrunTest, WithoutLocalWorldSizeThereIsOneNode) {
  environment.set("RANK", "0");
  environment.set("WORLD_SIZE", "4");
  EXPECT_EQ(configured({}).listen, "");
  EXPECT_EQ(configured({}).launch, "");
  environment.set("TORCHELASTIC_RUN_ID", "run");
  EXPECT_EQ(configured({}).launch, "run.0");
}

TEST_F(TorchrunTest, OnSeveralNodesRankZeroListensAndOtherNodesLookForIt) {
  start(0, 4, 2);
  EXPECT_EQ(configured(with_keys).listen, "0.0.0.0:29577");
  EXPECT_EQ(configured(with_keys).coordinator, "");
  start(1, 4, 2);
  EXPECT_EQ(configured(with_keys).coordinator, "") << "on rank 0's node";
  EXPECT_EQ(configured(with_keys).listen, "0.0.0.0:29577") << "engines of other hosts take part";
  start(2, 4, 2);
  EXPECT_EQ(configured(with_keys).coordinator, "node-0.example:29577");
  EXPECT_EQ(configured(with_keys).listen, "");
  const ConfigKey its = row(describe_config(PublisherOptions(), {}), "coordinator");
  EXPECT_EQ(its.source, ConfigSource::kTorchrun);
  EXPECT_EQ(its.origin, "torchrun's MASTER_ADDR: the job spans nodes");
}

TEST_F(TorchrunTest, ThePortIsAKey) {
  const ConfigSources sources{{"keys=/keys", "port=31000"}, {}};
  start(0, 2, 1);
  EXPECT_EQ(configured(sources).listen, "0.0.0.0:31000");
  start(1, 2, 1);
  EXPECT_EQ(configured(sources).coordinator, "node-0.example:31000");
}

TEST_F(TorchrunTest, AnAddressOfTheSixthVersionGetsItsBrackets) {
  start(0, 2, 1);
  environment.set("MASTER_ADDR", "fd00::1");
  EXPECT_EQ(configured(with_keys).listen, "[::]:29577");
  start(1, 2, 1);
  environment.set("MASTER_ADDR", "fd00::1");
  EXPECT_EQ(configured(with_keys).coordinator, "[fd00::1]:29577");
}

TEST_F(TorchrunTest, ExplicitPlacesGoBefore) {
  PublisherOptions given;
  given.listen = "10.0.0.1:1";
  given.keys = "/keys";
  start(0, 2, 1);
  EXPECT_EQ(configured({}, given).listen, "10.0.0.1:1");
  EXPECT_EQ(configured({{"keys=/keys", "listen=10.0.0.1:2"}, {}}).listen, "10.0.0.1:2");
  EXPECT_EQ(configured({{"listen="}, {}}).listen, "") << "nothing, on purpose";

  start(1, 2, 1);
  EXPECT_EQ(configured({{"keys=/keys", "coordinator=head:3"}, {}}).coordinator, "head:3");
  EXPECT_EQ(configured({{"coordinator="}, {}}).coordinator, "");
  EXPECT_EQ(configured({}, given).coordinator, "node-0.example:1") << "the port that rank 0 has";
}

TEST_F(TorchrunTest, AnExplicitRankIsNotTorchruns) {
  start(3, 4, 2);
  const PublisherOptions options = configured(flags({"rank=0", "world_size=1", "launch=mine"}));
  EXPECT_EQ(options.rank, 0u);
  EXPECT_EQ(options.world_size, 1u);
  EXPECT_EQ(options.launch, "mine");
  EXPECT_EQ(options.listen, "");
  PublisherOptions given;
  given.rank = 7;
  given.world_size = 9;
  EXPECT_EQ(configured(with_keys, given).rank, 3u) << "torchrun goes before the program";
}

TEST_F(TorchrunTest, AnEnginesTorchrunIsNotTheTrainers) {
  start(2, 4, 2);
  const auto options = configure(SubscriberOptions(), {});
  ASSERT_TRUE(options) << options.status().to_string();
  EXPECT_EQ(options->coordinator, "");
}

TEST_F(TorchrunTest, SeveralNodesNeedKeys) {
  start(0, 4, 2);
  expect_refusal(trainer({}),
                 {"option keys is empty", "listen = 0.0.0.0:29577 (torchrun's",
                  "`weightcast keygen --directory DIR`", "copy that folder to every host"});
  start(2, 4, 2);
  expect_refusal(trainer({}),
                 {"option keys is empty", "coordinator = node-0.example:29577 (torchrun's",
                  "weightcast keygen --directory DIR"});
}

TEST_F(TorchrunTest, WhatIsMissingOrWrongInItsEnvironmentIsNamed) {
  struct Case {
    const char* name;
    const char* value;  // null: unset
    std::vector<std::string> words;
  };
  for (const Case& wrong :
       {Case{"RANK", "1x", {"RANK=\"1x\"", "from 0 to"}},
        Case{"RANK", "4", {"rank = 4 (torchrun's RANK)", "below world_size = 4"}},
        Case{"RANK", nullptr, {"RANK and WORLD_SIZE", "torchrun sets both"}},
        Case{"WORLD_SIZE", nullptr, {"RANK and WORLD_SIZE"}},
        Case{"WORLD_SIZE", "0", {"WORLD_SIZE=\"0\"", "from 1 to"}},
        Case{"LOCAL_WORLD_SIZE", "0", {"LOCAL_WORLD_SIZE=\"0\"", "from 1 to"}},
        Case{"LOCAL_RANK", "2", {"LOCAL_RANK=\"2\"", "from 0 to 1"}},
        Case{"GROUP_RANK", nullptr, {"GROUP_RANK is not set", "LOCAL_WORLD_SIZE=2", "coordinator"}},
        Case{"GROUP_RANK", "a", {"GROUP_RANK=\"a\""}},
        Case{"MASTER_ADDR", nullptr, {"MASTER_ADDR=\"\"", "rank 0's host"}},
        Case{"MASTER_ADDR", "tcp://x", {"MASTER_ADDR=\"tcp://x\"", "rank 0's host"}}}) {
    SCOPED_TRACE(wrong.name);
    start(2, 4, 2);
    if (wrong.value == nullptr) {
      environment.unset(wrong.name);
    } else {
      environment.set(wrong.name, wrong.value);
    }
    expect_refusal(trainer(with_keys), wrong.words);
  }
}

class CombinationTest : public test::ConfigTest {};

TEST_F(CombinationTest, ImpossibleOnesOfTheTrainerAreNamed) {
  struct Case {
    std::vector<std::string> flags;
    std::vector<std::string> words;
  };
  for (const Case& wrong :
       {Case{{"transport=shm", "listen=0.0.0.0:1", "keys=/k"},
             {"transport = shm (flag --weightcast.transport)",
              "listen = 0.0.0.0:1 (flag --weightcast.listen)", "auto or tcp"}},
        Case{{"transport=shm", "coordinator=a:1", "keys=/k", "rank=1", "world_size=2"},
             {"transport = shm", "coordinator = a:1", "auto or tcp"}},
        Case{{"transport=cuda_ipc", "listen=0.0.0.0:1", "keys=/k"},
             {"transport = cuda_ipc", "listen = 0.0.0.0:1", "end at a host"}},
        Case{{"transport=nccl", "listen=0.0.0.0:1", "keys=/k"},
             {"transport = nccl", "listen = 0.0.0.0:1", "trusted_fabric = true"}},
        Case{{"transport=nccl", "coordinator=a:1", "keys=/k", "rank=1", "world_size=2"},
             {"transport = nccl", "coordinator = a:1", "trusted_fabric = true"}},
        Case{{"coordinator=a:1", "keys=/k"},
             {"coordinator = a:1 (flag --weightcast.coordinator)", "rank = 0", "[worker]"}},
        Case{{"listen=0.0.0.0:1"}, {"keys is empty", "listen = 0.0.0.0:1", "weightcast keygen"}},
        Case{{"coordinator=a:1", "rank=1", "world_size=2"}, {"keys is empty", "coordinator = a:1"}},
        Case{{"rank=2", "world_size=2"},
             {"rank = 2 (flag --weightcast.rank)", "below world_size = 2"}},
        Case{{"heartbeat=1s"},
             {"member_timeout = 2s", "heartbeat = 1s (flag --weightcast.heartbeat)",
              "three heartbeats"}},
        Case{{"attempt_timeout=50ms"},
             {"attempt_timeout = 50ms", "heartbeat = 100ms", "one heartbeat"}}}) {
    const Status status = trainer({wrong.flags, {}});
    expect_refusal(status, wrong.words);
  }
}

TEST_F(CombinationTest, WhatLooksLikeThemIsAllowed) {
  for (const std::vector<std::string>& good : std::vector<std::vector<std::string>>{
           {"listen=127.0.0.1:1"},
           {"listen=127.0.0.1:1", "transport=shm"},
           {"listen=localhost:0", "transport=tcp"},
           {"coordinator=[::1]:1", "rank=1", "world_size=2"},
           // All ranks may have rank 0's configuration.
           {"listen=0.0.0.0:1", "rank=1", "world_size=2"},
           {"listen=127.0.0.1:1", "transport=cuda_ipc"},
           {"listen=127.0.0.1:1", "transport=nccl"},
           {"listen=0.0.0.0:1", "transport=nccl", "keys=/k", "trusted_fabric=true"},
           {"listen=0.0.0.0:1", "transport=tcp", "keys=/k", "mode=p2p"}}) {
    EXPECT_TRUE(trainer({good, {}})) << trainer({good, {}}).to_string();
  }
  for (const std::vector<std::string>& good :
       std::vector<std::vector<std::string>>{{"activation=view", "transport=shm"},
                                             {"activation=serial", "transport=shm"},
                                             {"activation=auto", "transport=tcp"},
                                             {"coordinator=127.0.0.1:1", "transport=shm"},
                                             {"transport=nccl", "coordinator=a:1", "keys=/k"},
                                             {"activation=flip", "transport=cuda_ipc", "device=0"},
                                             {"activation=view", "device=none"},
                                             {"coordinator=a:1", "keys=/k"}}) {
    EXPECT_TRUE(worker({good, {}})) << worker({good, {}}).to_string();
  }
}

TEST_F(CombinationTest, ImpossibleOnesOfTheWorkerAreNamed) {
  expect_refusal(
      worker(flags({"activation=view", "transport=tcp"})),
      {"activation = view (flag --weightcast.activation)", "transport = tcp", "staged or serial"});
  for (const char* transport : {"cuda_ipc", "nccl"}) {
    expect_refusal(worker(flags({"activation=view", std::string("transport=") + transport})),
                   {"activation = view", std::string("transport = ") + transport, "auto or shm"});
  }
  expect_refusal(worker(flags({"activation=view", "device=0"})),
                 {"activation = view", "device = 0 (flag --weightcast.device)", "device = none"});
  expect_refusal(worker(flags({"trace=%x.json"})), {"trace = \"%x.json\"", "%p is the pid"});
  expect_refusal(worker(flags({"device=-1"})), {"device = \"-1\"", "0 to 1023 or none"});
  expect_refusal(worker(flags({"transport=shm", "coordinator=a:1", "keys=/k"})),
                 {"transport = shm", "coordinator = a:1", "auto or tcp"});
  expect_refusal(worker(flags({"coordinator=a:1"})),
                 {"keys is empty", "coordinator = a:1", "weightcast keygen --directory DIR"});
  expect_refusal(worker(flags({"member_timeout=200ms"})),
                 {"member_timeout = 200ms", "three heartbeats"});
  SubscriberOptions sliced;
  sliced.layout = {{"tensor", {2}, {{"source"}}}};
  expect_refusal(worker(flags({"activation=view"}), sliced),
                 {"activation = view", "layout (of 1 tensors)"});
  EXPECT_TRUE(worker(flags({"activation=flip"}), sliced));
}

TEST_F(CombinationTest, ValuesThatTheProgramGaveAreChecked) {
  PublisherOptions given;
  given.slots = 17;
  expect_refusal(trainer({}, given), {"option slots = 17: expected 2 to 16"});
  given = {};
  given.mode = static_cast<Mode>(9);
  expect_refusal(trainer({}, given), {"option mode = an unknown value: expected broadcast or p2p"});
  given = {};
  given.listen = "everywhere";
  expect_refusal(trainer({}, given), {"option listen = \"everywhere\": expected address:port"});
  SubscriberOptions engine;
  engine.device = -2;
  expect_refusal(worker({}, engine), {"option device = -2", "0 to 1023 or none"});
  engine = {};
  engine.lease_deadline = -1s;
  expect_refusal(worker({}, engine), {"option lease_deadline = -1s", "1ms to 24h"});
}

}  // namespace
}  // namespace weightcast
