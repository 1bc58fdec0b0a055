// Unknown keys, files that are none, and flags: what is said about them.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "unit/config_fixture.hpp"

namespace weightcast {
namespace {

class RefusalTest : public test::ConfigTest {
 protected:
  void expect_of_file(const std::string& text, std::vector<std::string> words) {
    SCOPED_TRACE(text);
    const ConfigSources sources{{}, write_file(text)};
    words.push_back("job.toml");
    expect_refusal(trainer(sources), words);
    expect_refusal(worker(sources), words);
  }
};

TEST_F(RefusalTest, AnUnknownKeyIsNamedWithTheNearestKnownOne) {
  expect_of_file("policy = \"p\"\nslot = 3\n",
                 {"unknown key \"slot\"", "job.toml:2", "did you mean slots?"});
  expect_of_file("[worker]\nactivaton = \"view\"\n",
                 {"unknown key \"activaton\"", "job.toml:2", "did you mean activation?"});
  expect_of_file("[trainer]\ncolour = 3\n",
                 {"unknown key \"colour\"", "expected one of config, log, log_format, job"});
  expect_of_file("copy-threads = 3\n",
                 {"unknown key \"copy-threads\"", "did you mean copy_threads?"});
  expect_of_file("layout = 3\n", {"unknown key \"layout\""});

  expect_refusal(trainer(flags({"slot=3"})),
                 {"unknown key \"slot\"", "flag --weightcast.slot", "did you mean slots?"});
  expect_refusal(worker(flags({"=3"})), {"unknown key \"\"", "expected one of"});
  environment.set("WEIGHTCAST_STAL", "3ms");
  expect_refusal(trainer({}), {"environment variable WEIGHTCAST_STAL=\"3ms\"",
                               "did you mean WEIGHTCAST_STALL?"});
  expect_refusal(worker({}), {"WEIGHTCAST_STAL"});
}

TEST_F(RefusalTest, AKeyOfTheOtherSideIsCheckedAndPassedOver) {
  ConfigSources sources{{"stall=1ms", "activation=view"}, write_file("slots = 3\nname = \"n\"\n")};
  EXPECT_TRUE(trainer(sources)) << trainer(sources).to_string();
  EXPECT_TRUE(worker(sources)) << worker(sources).to_string();

  expect_of_file("slots = 99\n", {"option slots = \"99\"", "job.toml:1", "2 to 16"});
  expect_of_file("name = \"a b\"\n", {"option name = \"a b\"", "job.toml:1", "A-Z"});
  expect_of_file("[worker]\nheartbeat = 5\n", {"option heartbeat = \"5\"", "job.toml:2", "250ms"});
  expect_of_file("[trainer]\nheartbeat = 5\n", {"option heartbeat = \"5\"", "job.toml:2", "250ms"});
}

TEST_F(RefusalTest, AKeyInTheOtherSidesSectionIsRefused) {
  expect_of_file("[worker]\nslots = 3\n", {"key slots in [worker]", "job.toml:2", "[trainer]"});
  expect_of_file("[trainer]\nname = \"n\"\n", {"key name in [trainer]", "job.toml:2", "[worker]"});
}

TEST_F(RefusalTest, AFileOfAnotherKindIsRefused) {
  expect_of_file("[engine]\nname = \"n\"\n",
                 {"unknown section [engine]", "job.toml:1", "[trainer] or [worker]"});
  expect_of_file("slots = 3\n\nslots = \n", {"job.toml:3", "not TOML"});
  expect_of_file("slots = 3\nslots = 4\n", {"job.toml", "not TOML"});
  expect_of_file("slots = [3]\n", {"option slots = a TOML array", "job.toml:1", "whole number"});
  expect_of_file("stall = 0.5\n", {"option stall = a TOML float", "job.toml:1"});
  expect_of_file("trainer = 5\n", {"unknown key \"trainer\"", "job.toml:1"});
  expect_of_file("job.name = \"x\"\n", {"unknown section [job]"});
  expect_of_file("config = \"other.toml\"\n",
                 {"key config", "job.toml:1", "a file cannot name another"});
  expect_of_file("slots = 99999999999999999999\n", {"slots", "job.toml:1"});
  expect_of_file("max_coalesced = 99999999999999999999\n", {"max_coalesced", "job.toml:1"});
  expect_of_file("memory_budget = 99999999999999999999\n", {"memory_budget", "job.toml:1"});
  expect_of_file(std::string("job = \"a\0b\"\n", 12), {"job.toml"});
}

TEST_F(RefusalTest, AFileThatCannotBeReadIsNamed) {
  const std::string missing = place.path() + "/missing.toml";
  expect_refusal(trainer({{}, missing}), {missing, "No such file", "--weightcast.config"},
                 Code::kNotFound);
  environment.set("WEIGHTCAST_CONFIG", missing);
  expect_refusal(worker({}), {missing, "WEIGHTCAST_CONFIG"}, Code::kNotFound);
  expect_refusal(worker({{}, place.path()}), {place.path(), "not a regular file"}, Code::kNotFound);
  const std::string pipe = place.path() + "/pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_refusal(worker({{}, pipe}), {pipe, "not a regular file"}, Code::kNotFound);
  expect_refusal(worker({{}, write_file(std::string(70'000, '#'))}), {"longer than 65536 bytes"},
                 Code::kNotFound);
}

TEST_F(RefusalTest, AValueIsNamedWithItsSourceAndWhatIsAllowed) {
  expect_refusal(trainer(flags({"slots=17"})),
                 {"option slots = \"17\" (flag --weightcast.slots): expected 2 to 16"});
  expect_refusal(trainer(flags({"slots"})),
                 {"option slots", "has no value", "--weightcast.slots=VALUE"});
  expect_refusal(worker(flags({"memory_budget=-1"})), {"memory_budget = \"-1\"", "512MiB"});
  expect_refusal(worker(flags({"memory_budget=2097152TiB"})), {"memory_budget", "bytes"});
  expect_refusal(trainer(flags({"max_coalesced=18446744073709551615"})),
                 {"max_coalesced", "unlimited"});
  expect_refusal(trainer(flags({"launch=" + std::string(1000, 'x')})),
                 {"launch = \"xxx", "x...\" (1000 characters)", "at most 128"});
  expect_refusal(worker(flags({"coordinator=trainer-0"})), {"coordinator", "host:port"});
  expect_refusal(worker(flags({"coordinator=trainer-0:0"})), {"coordinator", "host:port"});
  expect_refusal(trainer(flags({"listen=29577"})), {"listen", "address:port"});
  environment.set("WEIGHTCAST_STALL_MS", "soon");
  expect_refusal(trainer({}), {"option stall = \"soon\" (environment variable WEIGHTCAST_STALL_MS)",
                               "expected whole ms, 0 to 1h"});
}

TEST_F(RefusalTest, TwoVariablesForOneKeyAreRefused) {
  environment.set("WEIGHTCAST_DIR", "/a");
  environment.set("WEIGHTCAST_DIRECTORY", "/b");
  expect_refusal(worker({}),
                 {"option directory", "WEIGHTCAST_DIR and WEIGHTCAST_DIRECTORY", "one of them"});
  environment.set("WEIGHTCAST_DIR", "");
  EXPECT_TRUE(worker({})) << "an empty one is not set: " << worker({}).to_string();
}

TEST_F(RefusalTest, VariablesOfTheScriptsAndOfKubernetesAreNoKeys) {
  for (const auto& [name, value] :
       {std::pair("WEIGHTCAST_VENV", "/venv"), std::pair("WEIGHTCAST_PYTHON", "python3"),
        std::pair("WEIGHTCAST_NCCL_LIBRARY", "libnccl.so.2"),
        std::pair("WEIGHTCAST_SIM_SEEDS", "5"), std::pair("WEIGHTCAST_SERVICE_HOST", "10.0.0.1"),
        std::pair("WEIGHTCAST_SERVICE_PORT_CONTROL", "29577"),
        std::pair("WEIGHTCAST_PORT", "tcp://10.0.0.1:29577"),
        std::pair("WEIGHTCAST_PORT_29577_TCP", "tcp://10.0.0.1:29577"),
        std::pair("WEIGHTCAST_PORT_29577_TCP_ADDR", "10.0.0.1"),
        std::pair("WEIGHTCAST_TRAINER_PORT", "tcp://10.0.0.1:29577")}) {
    environment.set(name, value);
  }
  EXPECT_TRUE(trainer({})) << trainer({}).to_string();
  environment.set("WEIGHTCAST_PORT", "70000");
  expect_refusal(trainer({}), {"option port = \"70000\"", "1 to 65535"});
}

class TakeFlagsTest : public testing::Test {
 protected:
  /// Runs take_flags(). @return what is left of the arguments
  std::vector<std::string> take(std::vector<std::string> arguments) {
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    int argc = static_cast<int>(arguments.size());
    flags = take_flags(argc, argv.data());
    EXPECT_EQ(argv[static_cast<std::size_t>(argc)], nullptr);
    return {argv.begin(), argv.begin() + argc};
  }
  std::vector<std::string> flags;
  using Texts = std::vector<std::string>;
};

TEST_F(TakeFlagsTest, BothFormsAreTakenAndTheOthersStay) {
  EXPECT_EQ(take({"program", "--epochs", "3", "--weightcast.slots=5", "file",
                  "--weightcast.copy-threads", "2", "--weightcast.stall=1=2", "-x"}),
            (Texts{"program", "--epochs", "3", "file", "-x"}));
  EXPECT_EQ(flags, (Texts{"slots=5", "copy_threads=2", "stall=1=2"}));
}

TEST_F(TakeFlagsTest, AValueKeepsItsDashes) {
  take({"program", "--weightcast.job=a-b", "--weightcast.policy", "c-d"});
  EXPECT_EQ(flags, (Texts{"job=a-b", "policy=c-d"}));
}

TEST_F(TakeFlagsTest, AKeyThatIsTrueOrFalseMayStandAlone) {
  EXPECT_EQ(take({"program", "--weightcast.takeover", "file", "--weightcast.relay", "false",
                  "--weightcast.verify-view"}),
            (Texts{"program", "file"}));
  EXPECT_EQ(flags, (Texts{"takeover", "relay=false", "verify_view"}));
}

TEST_F(TakeFlagsTest, AMissingValueIsLeftToConfigure) {
  EXPECT_EQ(take({"program", "--weightcast.slots", "--other", "--weightcast.job"}),
            (Texts{"program", "--other"}));
  EXPECT_EQ(flags, (Texts{"slots", "job"}));
}

TEST_F(TakeFlagsTest, NothingIsTakenBehindTwoDashes) {
  EXPECT_EQ(take({"program", "--weightcast.slots=5", "--", "--weightcast.slots=6"}),
            (Texts{"program", "--", "--weightcast.slots=6"}));
  EXPECT_EQ(flags, (Texts{"slots=5"}));
}

TEST_F(TakeFlagsTest, NoArgumentsAreNoTrouble) {
  EXPECT_TRUE(take({}).empty());
  EXPECT_TRUE(flags.empty());
}

}  // namespace
}  // namespace weightcast
