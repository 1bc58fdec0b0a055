// Which source goes before which, for every key of both sides.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include <weightcast/log.hpp>

#include "unit/config_fixture.hpp"

namespace weightcast {
namespace {

using namespace std::chrono_literals;
using test::samples_of;
using test::toml_line;

template <class Options>
class PrecedenceTest : public test::ConfigTest {
 protected:
  using Settings = config::Settings<Options>;
  using Table = Result<std::vector<ConfigKey>>;

  /// A way to say a key's value, from the weakest to the strongest.
  struct Way {
    std::string name;
    ConfigSource source;
    std::string origin;  // begins so
    std::function<void(const ConfigKey&, const std::string& value)> say;
  };

  std::vector<Way> ways() {
    const std::string section =
        std::is_same_v<Options, PublisherOptions> ? "[trainer]\n" : "[worker]\n";
    return {{"program", ConfigSource::kProgram, "",
             [this](const ConfigKey& key, const std::string& value) {
               EXPECT_TRUE(config::find_key<Settings>(key.key)->set(defaults, value));
             }},
            {"file", ConfigSource::kFile, place.path() + "/job.toml:1",
             [this](const ConfigKey& key, const std::string& value) {
               common = toml_line(key.key, value);
             }},
            {"section", ConfigSource::kFile, place.path() + "/job.toml:",
             [this, section](const ConfigKey& key, const std::string& value) {
               own = section + toml_line(key.key, value);
             }},
            {"environment", ConfigSource::kEnvironment, "environment variable WEIGHTCAST_",
             [this](const ConfigKey& key, const std::string& value) {
               environment.set(key.variables.front(), value);
             }},
            {"flag", ConfigSource::kFlag, "flag --weightcast.",
             [this](const ConfigKey& key, const std::string& value) {
               sources.flags.push_back(key.key + "=" + value);
             }}};
  }

  void forget(const ConfigKey& key) {
    defaults = Settings();
    common.clear();
    own.clear();
    sources = {};
    environment.unset(key.variables.front());
  }

  Table table() {
    sources.file = write_file(common + own);
    return describe_config(static_cast<const Options&>(defaults), sources);
  }

  /// The keys, but for `config`, which names the file, and what no program can say in its options.
  std::vector<ConfigKey> keys() const {
    auto described = describe_config(Options(), {});
    EXPECT_TRUE(described) << described.status().to_string();
    std::erase_if(*described, [](const ConfigKey& key) { return key.key == "config"; });
    return *described;
  }
  static bool is_option(const ConfigKey& key) { 
    return key.key != "log" && key.key != "log_format" && key.key != "port";
  }

  Settings defaults;
  std::string common;
  std::string own;
  ConfigSources sources;
};

using Sides = testing::Types<PublisherOptions, SubscriberOptions>;
TYPED_TEST_SUITE(PrecedenceTest, Sides);

TYPED_TEST(PrecedenceTest, EachSourceAloneSetsItsKeyAndNoOther) {
  const auto untouched = this->keys();
  ASSERT_GT(untouched.size(), 15u);
  for (const ConfigKey& key : untouched) {
    for (const auto& way : this->ways()) {
      if (way.name == "program" && !this->is_option(key)) continue;
      for (const std::string& value : samples_of(key)) {
        SCOPED_TRACE(key.key + " = " + value + " by " + way.name);
        way.say(key, value);
        const auto table = this->table();
        const ConfigKey its = this->row(table, key.key);
        EXPECT_EQ(its.value, value);
        EXPECT_EQ(config_source_name(its.source), std::string(config_source_name(way.source)));
        EXPECT_TRUE(its.origin.starts_with(way.origin)) << its.origin;
        for (const ConfigKey& other : untouched) {
          if (other.key == key.key) continue;
          EXPECT_EQ(this->row(table, other.key).value, other.default_value) << other.key;
        }
        this->forget(key);
      }
    }
  }
}

TYPED_TEST(PrecedenceTest, OfTwoSourcesTheStrongerCounts) {
  for (const ConfigKey& key : this->keys()) {
    // The default is a value like another; true and false have no third.
    std::vector<std::string> values = samples_of(key);
    if (values.size() < 2) values.push_back(key.default_value);
    ASSERT_GE(values.size(), 2u) << key.key;
    const auto ways = this->ways();
    for (std::size_t weak = 0; weak < ways.size(); ++weak) {
      for (std::size_t strong = weak + 1; strong < ways.size(); ++strong) {
        if (ways[weak].name == "program" && !this->is_option(key)) continue;
        for (const auto& [lost, won] :
             {std::pair(values[0], values[1]), std::pair(values[1], values[0])}) {
          SCOPED_TRACE(key.key + ": " + ways[strong].name + " over " + ways[weak].name);
          ways[weak].say(key, lost);
          ways[strong].say(key, won);
          const ConfigKey its = this->row(this->table(), key.key);
          EXPECT_EQ(its.value, won);
          EXPECT_EQ(config_source_name(its.source),
                    std::string(config_source_name(ways[strong].source)));
          this->forget(key);
        }
      }
    }
  }
}

TYPED_TEST(PrecedenceTest, ABadValueIsRefusedWhereverItStands) {
  for (const ConfigKey& key : this->keys()) {
    const std::string bad = "no such value: \t";
    const bool any_text_will_do = key.key == "directory" || key.key == "keys" ||
                                  key.key == "launch" || key.key == "trace";
    if (any_text_will_do) continue;
    for (const auto& way : this->ways()) {
      if (way.name == "program") continue;
      SCOPED_TRACE(key.key + " by " + way.name);
      way.say(key, way.source == ConfigSource::kFile ? "no such value: \\t" : bad);
      this->sources.file = this->write_file(this->common + this->own);
      const Status status = configure(TypeParam(), this->sources).status();
      this->expect_refusal(
          status, {"option " + key.key + " = \"" + bad + "\" (" + way.origin, key.allowed});
      this->forget(key);
    }
  }
}

class ConfigureTest : public test::ConfigTest {};

TEST_F(ConfigureTest, WithNothingSaidTheProgramsOwnValuesStay) {
  PublisherOptions given;
  given.job = "from-program";
  given.stall = 7ms;

  const auto options = configure(given, {});

  ASSERT_TRUE(options) << options.status().to_string();
  EXPECT_EQ(options->job, "from-program");
  EXPECT_EQ(options->stall, 7ms);
  EXPECT_EQ(row(describe_config(given, {}), "stall").source, ConfigSource::kProgram);
  EXPECT_EQ(row(describe_config(given, {}), "slots").source, ConfigSource::kDefault);
}

TEST_F(ConfigureTest, TheEnvironmentsVariablesOfOldKeepWorking) {
  environment.set("WEIGHTCAST_STALL_MS", "250");
  environment.set("WEIGHTCAST_DIR", "/somewhere");

  const auto options = with_environment(PublisherOptions());

  ASSERT_TRUE(options) << options.status().to_string();
  EXPECT_EQ(options->stall, 250ms);
  EXPECT_EQ(options->directory, "/somewhere");
  EXPECT_EQ(row(describe_config(PublisherOptions(), {}), "stall").origin,
            "environment variable WEIGHTCAST_STALL_MS");
}

TEST_F(ConfigureTest, EachKeyOfTheTrainerReachesItsField) {
  const auto options = configure(PublisherOptions(), {{}, write_file(R"(
job = "j"
policy = "p"
directory = "/d"
transport = "tcp"
advertise = "host-7"
keys = "/keys"
copy_threads = 3
heartbeat = "50ms"
member_timeout = "4s"
[trainer]
rank = 1
world_size = 3
launch = "l"
coordinator = "trainer-0:1234"
listen = "0.0.0.0:1234"
takeover = true
mode = "p2p"
slots = 5
slot_bytes = "6MiB"
dtype = "bf16"
inline_bytes = 7
stall = "8ms"
max_coalesced = 9
compare_every = 10
min_receivers = 11
max_dirty = 12
attempt_timeout = "13s"
[worker]
copy_threads = 64
)")});

  ASSERT_TRUE(options) << options.status().to_string();
  EXPECT_EQ(options->job, "j");
  EXPECT_EQ(options->policy, "p");
  EXPECT_EQ(options->directory, "/d");
  EXPECT_EQ(options->transport, TransportChoice::kTcp);
  EXPECT_EQ(options->advertise, "host-7");
  EXPECT_EQ(options->keys, "/keys");
  EXPECT_EQ(options->copy_threads, 3u);
  EXPECT_EQ(options->heartbeat, 50ms);
  EXPECT_EQ(options->member_timeout, 4s);
  EXPECT_EQ(options->rank, 1u);
  EXPECT_EQ(options->world_size, 3u);
  EXPECT_EQ(options->launch, "l");
  EXPECT_EQ(options->coordinator, "trainer-0:1234");
  EXPECT_EQ(options->listen, "0.0.0.0:1234");
  EXPECT_TRUE(options->takeover);
  EXPECT_EQ(options->mode, Mode::kP2p);
  EXPECT_EQ(options->slots, 5u);
  EXPECT_EQ(options->slot_bytes, 6u << 20);
  EXPECT_EQ(options->dtype, DType::kBF16);
  EXPECT_EQ(options->inline_bytes, 7u);
  EXPECT_EQ(options->stall, 8ms);
  EXPECT_EQ(options->max_coalesced, 9u);
  EXPECT_EQ(options->compare_every, 10u);
  EXPECT_EQ(options->min_receivers, 11u);
  EXPECT_EQ(options->max_dirty, 12u);
  EXPECT_EQ(options->attempt_timeout, 13s);
}

TEST_F(ConfigureTest, EachKeyOfTheWorkerReachesItsField) {
  SubscriberOptions given;
  given.layout = {{"tensor", {2}, {{"source"}}}};
  const auto options = configure(given, {{}, write_file(R"(
slots = 3
keys = "/keys"
[worker]
coordinator = "trainer-0:1234"
name = "n"
activation = "serial"
memory_budget = "2GB"
bucket_bytes = "3MiB"
relay = false
verify_view = true
max_staleness = 4
serve_detached = false
lease_deadline = "5s"
[trainer]
stall = "1ms"
)")});

  ASSERT_TRUE(options) << options.status().to_string();
  EXPECT_EQ(options->coordinator, "trainer-0:1234");
  EXPECT_EQ(options->keys, "/keys");
  EXPECT_EQ(options->name, "n");
  EXPECT_EQ(options->activation, Activation::kSerial);
  EXPECT_EQ(options->memory_budget, 2'000'000'000u);
  EXPECT_EQ(options->bucket_bytes, 3u << 20);
  EXPECT_FALSE(options->relay);
  EXPECT_TRUE(options->verify_view);
  EXPECT_EQ(options->max_staleness, 4u);
  EXPECT_FALSE(options->serve_detached);
  EXPECT_EQ(options->lease_deadline, 5s);
  EXPECT_EQ(options->layout.size(), 1u) << "what no key sets stays";
}

TEST_F(ConfigureTest, TheFileIsNamedByFlagThenProgramThenEnvironment) {
  const std::string one = write_file("job = \"one\"\n");
  const auto write = [&](const char* name) {
    const std::string path = place.path() + "/" + name + ".toml";
    std::ofstream(path) << "job = \"" << name << "\"\n";
    return path;
  };
  const auto job = [](const ConfigSources& sources) {
    const auto options = configure(SubscriberOptions(), sources);
    return options ? options->job : options.status().to_string();
  };
  environment.set("WEIGHTCAST_CONFIG", write("by-environment"));

  EXPECT_EQ(job({}), "by-environment");
  EXPECT_EQ(job({{}, write("by-program")}), "by-program");
  EXPECT_EQ(job({{"config=" + write("by-flag")}, write("by-program")}), "by-flag");
  EXPECT_EQ(job({{"config="}, write("by-program")}), "default") << "no file at all";
  EXPECT_EQ(row(describe_config(SubscriberOptions(), {{}, one}), "config").value, one);
  EXPECT_EQ(row(describe_config(SubscriberOptions(), {{}, one}), "config").source,
            ConfigSource::kProgram);
}

TEST_F(ConfigureTest, OfTwoFlagsTheLaterCounts) {
  const auto options = configure(PublisherOptions(), flags({"slots=5", "slots=6"}));
  ASSERT_TRUE(options) << options.status().to_string();
  EXPECT_EQ(options->slots, 6u);
}

TEST_F(ConfigureTest, DashesInAFlagsKeyAreUnderscores) {
  const auto options = configure(PublisherOptions(), flags({"copy-threads=5", "takeover"}));
  ASSERT_TRUE(options) << options.status().to_string();
  EXPECT_EQ(options->copy_threads, 5u);
  EXPECT_TRUE(options->takeover);
}

TEST_F(ConfigureTest, TheLogLevelIsSetWhereSomebodySaysIt) {
  int lines = 0;
  set_log_sink([&](LogLevel, std::string_view) { ++lines; });
  ASSERT_TRUE(configure(PublisherOptions(), flags({"log=error"})));
  log_line(LogLevel::kWarn, "event=test");
  EXPECT_EQ(lines, 0);
  ASSERT_TRUE(configure(PublisherOptions(), {})) << "says nothing of it";
  log_line(LogLevel::kWarn, "event=test");
  EXPECT_EQ(lines, 0);
  ASSERT_TRUE(describe_config(PublisherOptions(), flags({"log=debug"}))) << "changes nothing";
  log_line(LogLevel::kWarn, "event=test");
  EXPECT_EQ(lines, 0);
  environment.set("WEIGHTCAST_LOG", "info");
  ASSERT_TRUE(with_environment(SubscriberOptions()));
  log_line(LogLevel::kWarn, "event=test");
  EXPECT_EQ(lines, 1);
  set_log_sink({});
}

}  // namespace
}  // namespace weightcast
