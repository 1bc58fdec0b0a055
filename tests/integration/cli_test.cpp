// The command: keys, configuration, completion, manual, versions, and wrong lines.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include <weightcast/config.hpp>
#include <weightcast/version.hpp>

#include "integration/command_run.hpp"
#include "keys/key_ring.hpp"
#include "protocol/message.hpp"

namespace weightcast {
namespace {

namespace fs = std::filesystem;
using test::Ended;
using test::text_of;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Command : public ::testing::Test {
 protected:
  Ended run(std::vector<std::string> arguments, std::vector<std::string> variables = {}) const {
    arguments.insert(arguments.begin(), WEIGHTCAST_COMMAND);
    return test::run_program(std::move(arguments), place_.path(), std::move(variables));
  }

  std::string write_file(const std::string& text) const {
    const std::string path = place_.path() + "/job.toml";
    std::ofstream(path) << text;
    return path;
  }

  /// What bash offers at the end of this line.
  std::vector<std::string> completed(const std::string& line) const {
    const std::string script = place_.path() + "/complete.sh";
    std::ofstream(script) << "eval \"$('" WEIGHTCAST_COMMAND "' completion bash)\"\n"
                          << "COMP_WORDS=(" << line << ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
                          << "_weightcast\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n";
    const Ended ended = test::run_program({"/bin/bash", script}, place_.path());
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_EQ(ended.err, "");
    std::vector<std::string> words;
    std::istringstream lines(ended.out);
    for (std::string word; std::getline(lines, word);) words.push_back(word);
    return words;
  }

  test::PrivatePlace place_;
  const std::string keys_ = place_.path() + "/keys";
};

TEST_F(Command, KeygenMakesKeysThatBothRolesCanUse) {
  const Ended ended = run({"keygen", "--directory", keys_});

  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  for (const keys::Role role : {keys::Role::kTrainer, keys::Role::kEngine}) {
    const auto ring = keys::KeyRing::load(keys_, role);
    ASSERT_TRUE(ring) << ring.status().to_string();
    EXPECT_FALSE(has(ended.out, ring->own().secret_key)) << "a secret is printed";
    const std::string name(keys::role_name(role));
    for (const char* ending : {".secret", ".public", ".allowed"}) {
      EXPECT_TRUE(has(ended.out, name + ending)) << ended.out;
    }
  }
  EXPECT_TRUE(has(ended.out, keys_));
  EXPECT_TRUE(has(ended.out, "engine.secret     SECRET"));
  EXPECT_TRUE(has(ended.out, "Copy the folder to every host"));
}

TEST_F(Command, KeygenNeverOverwrites) {
  ASSERT_EQ(run({"keygen", "--directory", keys_}).code, 0);
  const std::string before = text_of(keys_ + "/engine.secret");

  const Ended again = run({"keygen", "--directory", keys_});

  EXPECT_EQ(again.code, 1);
  EXPECT_EQ(again.out, "");
  EXPECT_TRUE(has(again.err, "never overwritten")) << again.err;
  EXPECT_EQ(text_of(keys_ + "/engine.secret"), before);
}

TEST_F(Command, FailuresNameTheFolder) {
  const Ended ended = run({"keygen", "--directory", place_.path() + "/no/such"});
  EXPECT_EQ(ended.code, 1);
  EXPECT_TRUE(has(ended.err, place_.path() + "/no/such")) << ended.err;
  EXPECT_TRUE(has(ended.err, "a directory that exists")) << ended.err;
}

TEST_F(Command, SaysItsVersion) {
  const Ended ended = run({"--version"});
  EXPECT_EQ(ended.code, 0);
  EXPECT_TRUE(ended.out.starts_with(std::string("weightcast ") + library_version() + "\nprotocol " +
                                    std::to_string(protocol::kProtocolVersion) + "\ncuda: "))
      << ended.out;
  EXPECT_TRUE(has(ended.out, "\nnccl: ")) << ended.out;
}

TEST_F(Command, AWrongLineIsExplained) {
  for (const std::vector<std::string>& line :
       {std::vector<std::string>{},
        {"keygen"},
        {"nonsense"},
        {"keygen", "--directory"},
        {"keygen", "--directory", keys_, "--force"},
        {"keygen", "--directory", keys_, "--weightcast.slots=3"},
        {"doctor", "--policy-bytes", "5 MB"},
        {"doctor", "--policy-bytes", "9999999999TB"},
        {"doctor", "--side", "left"},
        {"config", "check"},
        {"completion", "csh"}}) {
    const Ended ended = run(line);
    EXPECT_EQ(ended.code, 2) << ended.out << ended.err;
    EXPECT_NE(ended.err, "");
  }
  EXPECT_FALSE(fs::exists(keys_));
  const Ended help = run({"keygen", "--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_TRUE(has(help.out, "--directory")) << help.out;
}

TEST_F(Command, ConfigSaysWhereEachValueCameFrom) {
  const std::string file =
      write_file("job = \"j\"\n[trainer]\nslots = 6\n[worker]\nrelay = false\n");
  const Ended ended = run({"config", "--json", "--config", file, "--weightcast.copy-threads", "3"},
                          {"WEIGHTCAST_STALL=70ms", "RANK=1", "WORLD_SIZE=2"});

  ASSERT_EQ(ended.code, 0) << ended.err;
  const auto all = nlohmann::json::parse(ended.out);
  const auto value = [&](const char* side, const std::string& key) {
    for (const auto& its : all.at(side)) {
      if (its.at("key") == key) {
        return its.at("value").get<std::string>() + " " + its.at("source").get<std::string>() +
               " " + its.at("origin").get<std::string>();
      }
    }
    return std::string("no such key");
  };
  EXPECT_EQ(value("trainer", "job"), "j file " + file + ":1");
  EXPECT_EQ(value("worker", "job"), "j file " + file + ":1");
  EXPECT_EQ(value("trainer", "slots"), "6 file " + file + ":3");
  EXPECT_EQ(value("worker", "relay"), "false file " + file + ":5");
  EXPECT_EQ(value("trainer", "stall"), "70ms environment environment variable WEIGHTCAST_STALL");
  EXPECT_EQ(value("worker", "copy_threads"), "3 flag flag --weightcast.copy_threads");
  EXPECT_EQ(value("trainer", "rank"), "1 torchrun torchrun's RANK");
  EXPECT_TRUE(value("trainer", "heartbeat").ends_with(" default "))
      << value("trainer", "heartbeat");
  for (const auto& [side, keys] : all.items()) {
    for (const auto& its : keys) {
      EXPECT_NE(its.at("meaning"), "") << side << its;
      EXPECT_FALSE(its.at("variables").empty()) << side << its;
    }
  }
}

TEST_F(Command, ConfigPrintsEveryKeyOfTheSideThatIsAskedFor) {
  const Ended ended = run({"config", "--side", "worker"});

  ASSERT_EQ(ended.code, 0) << ended.err;
  const auto keys = describe_config(SubscriberOptions{}, {});
  ASSERT_TRUE(keys) << keys.status().to_string();
  for (const ConfigKey& key : *keys) {
    EXPECT_TRUE(has(ended.out, "\n" + key.key + " = ")) << key.key;
    EXPECT_TRUE(has(ended.out, key.meaning)) << key.key;
    EXPECT_TRUE(has(ended.out, key.variables.front())) << key.key;
  }
  EXPECT_FALSE(has(ended.out, "[trainer]")) << ended.out;
}

TEST_F(Command, ConfigCheckGivesTheErrorsOfPrograms) {
  const std::string good = write_file("[trainer]\nslots = 6\n");
  EXPECT_EQ(run({"config", "check", good}).code, 0);
  for (const std::string& text :
       {std::string("slot = 6\n"), std::string("[trainer]\nslots = 17\n"),
        std::string("slots = ]\n"),
        std::string("[worker]\nactivation = \"view\"\ntransport = \"tcp\"\n"),
        std::string("[trainer]\nlisten = \"0.0.0.0:29577\"\n")}) {
    const std::string file = write_file(text);
    const auto trainer = configure(PublisherOptions{}, {{}, file});
    const auto worker = configure(SubscriberOptions{}, {{}, file});
    ASSERT_FALSE(trainer && worker) << text;
    const Status expected = trainer ? worker.status() : trainer.status();

    const Ended ended = run({"config", "check", file});

    EXPECT_EQ(ended.code, 1) << text;
    EXPECT_TRUE(has(ended.err, expected.message())) << ended.err;
    EXPECT_EQ(ended.out, "");
  }
  EXPECT_EQ(run({"config", "check", place_.path() + "/none.toml"}).code, 1);
}

TEST_F(Command, AWorkersHostIsNotReadAsATrainersUnlessItIsAskedFor) {
  ASSERT_EQ(run({"keygen", "--directory", keys_}).code, 0);
  const std::vector<std::string> variables = {"WEIGHTCAST_COORDINATOR=trainer-0:29577",
                                              "WEIGHTCAST_KEYS=" + keys_};
  EXPECT_EQ(run({"config"}, variables).code, 0);
  const Ended as_trainer = run({"config", "--side", "trainer"}, variables);
  EXPECT_EQ(as_trainer.code, 1);
  EXPECT_TRUE(has(as_trainer.err, "WEIGHTCAST_COORDINATOR")) << as_trainer.err;
}

TEST_F(Command, BashCompletesCommandsOptionsAndValues) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(completed("weightcast doc"), Words{"doctor"});
  EXPECT_EQ(completed("weightcast doctor --cl"), Words{"--clean"});
  EXPECT_EQ(completed("weightcast doctor --json --side tr"), Words{"trainer"});
  EXPECT_EQ(completed("weightcast config ch"), Words{"check"});
  EXPECT_EQ(completed("weightcast completion f"), Words{"fish"});
  const std::string file = write_file("");
  EXPECT_EQ(completed("weightcast config check " + file.substr(0, file.size() - 2)), Words{file});
}

TEST_F(Command, EveryShellsScriptAndTheManualKnowEveryCommandAndOption) {
  const auto listed = [&](const std::string& help) {
    std::vector<std::string> names;
    std::istringstream lines(help);
    for (std::string line; std::getline(lines, line);) {
      const auto begin = line.find("--");
      if (!line.starts_with("  ") || begin == std::string::npos || begin > 6) continue;
      names.push_back(line.substr(begin + 2, line.find_first_of(" ,:", begin) - begin - 2));
    }
    return names;
  };
  const std::string manual = text_of(WEIGHTCAST_MANUAL);
  for (const std::string command : {"doctor", "config", "keygen", "completion", "man"}) {
    const auto options = listed(run({command, "--help"}).out);
    EXPECT_FALSE(options.empty()) << command;
    for (const std::string shell : {"bash", "zsh", "fish"}) {
      const Ended script = run({"completion", shell});
      ASSERT_EQ(script.code, 0) << script.err;
      EXPECT_TRUE(has(script.out, command)) << shell;
      for (const std::string& option : options) {
        EXPECT_TRUE(has(script.out, option)) << shell << ": " << command << " --" << option;
      }
    }
    EXPECT_TRUE(has(manual, "weightcast " + command)) << command;
  }
}

TEST_F(Command, TheManualThatIsInstalledIsTheCommands) {
  const Ended ended = run({"man"});
  ASSERT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(text_of(WEIGHTCAST_MANUAL), ended.out)
      << "make it anew: weightcast man >docs/man/weightcast.1";
}

}  // namespace
}  // namespace weightcast
