// The table has every field of the options, and docs/configuration.md every key of the table.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>

#include "unit/config_fixture.hpp"

namespace weightcast {
namespace {

std::vector<std::string> names_of(const std::vector<ConfigKey>& table) {
  std::vector<std::string> names;
  for (const ConfigKey& key : table) names.push_back(key.key);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> sorted(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  return names;
}

class TableTest : public test::ConfigTest {
 protected:
  template <class Options>
  std::vector<ConfigKey> table_of() const {
    auto table = describe_config(Options(), {});
    EXPECT_TRUE(table) << table.status().to_string();
    return *table;
  }
};

std::vector<std::string> split(const std::string& words) {
  std::vector<std::string> names(1);
  for (const char c : words) {
    if (c == ',') names.emplace_back();
    if (c != ',' && c != ' ') names.back() += c;
  }
  return names;
}

// A field that is added to the options does not compile here until it is named; then the key is
// missed.
#define WEIGHTCAST_FIELDS(options, ...)                   \
  [&] {                                                   \
    [[maybe_unused]] const auto& [__VA_ARGS__] = options; \
    return split(#__VA_ARGS__);                           \
  }()

TEST_F(TableTest, HasEveryFieldOfThePublishersOptions) {
  const PublisherOptions options;
  std::vector<std::string> fields =
      WEIGHTCAST_FIELDS(options, job, policy, rank, world_size, launch, directory, takeover, mode,
                        transport, listen, coordinator, advertise, keys, slots, slot_bytes, staging,
                        device_budget, trusted_fabric, dtype,
                        copy_threads, inline_bytes, stall, max_coalesced, compare_every,
                        min_receivers, max_dirty, heartbeat, member_timeout, attempt_timeout, trace,
                        metrics);
  for (const char* beside : {"config", "log", "log_format", "port"}) fields.push_back(beside);

  EXPECT_EQ(names_of(table_of<PublisherOptions>()), sorted(fields));
}

TEST_F(TableTest, HasEveryFieldOfTheSubscribersOptions) {
  const SubscriberOptions options;
  std::vector<std::string> fields = WEIGHTCAST_FIELDS(
      options, job, policy, directory, name, activation, memory_budget, device, layout, transport,
      bucket_bytes, coordinator, advertise, keys, relay, copy_threads, verify_view, max_staleness,
      serve_detached, lease_deadline, heartbeat, member_timeout, trace, metrics);
  std::erase(fields, "layout");  // the program's alone: tensors and boxes
  for (const char* beside : {"config", "log", "log_format"}) fields.push_back(beside);

  EXPECT_EQ(names_of(table_of<SubscriberOptions>()), sorted(fields));
}

TEST_F(TableTest, SaysOfEachKeyWhatItIs) {
  for (const auto& table : {table_of<PublisherOptions>(), table_of<SubscriberOptions>()}) {
    for (const ConfigKey& key : table) {
      SCOPED_TRACE(key.key);
      EXPECT_EQ(key.variables.front(), config::variable_name(key.key));
      EXPECT_EQ(key.value, key.default_value);
      EXPECT_EQ(key.source, ConfigSource::kDefault);
      EXPECT_FALSE(key.allowed.empty());
      EXPECT_TRUE(key.meaning.ends_with(".")) << key.meaning;
    }
  }
  EXPECT_STREQ(config_source_name(ConfigSource::kTorchrun), "torchrun");
  EXPECT_EQ(config::variable_name("slot_bytes"), "WEIGHTCAST_SLOT_BYTES");
}

std::string row_of(const ConfigKey& key, const std::string& side) {
  std::string also;
  for (std::size_t i = 1; i < key.variables.size(); ++i)
    also += " Also `" + key.variables[i] + "`.";
  const std::string its_default = key.default_value.empty() ? "" : "`" + key.default_value + "`";
  return "| `" + key.key + "` | " + side + " | " + its_default + " | " + key.allowed + " | " +
         key.meaning + also + " |\n";
}

TEST_F(TableTest, IsWhatTheDocumentSays) {
  const auto trainer = table_of<PublisherOptions>();
  const auto worker = table_of<SubscriberOptions>();
  std::string expected = "| key | of | default | allowed | meaning |\n|---|---|---|---|---|\n";
  for (const ConfigKey& key : trainer) {
    const auto same = std::find_if(worker.begin(), worker.end(),
                                   [&](const ConfigKey& other) { return other.key == key.key; });
    expected += row_of(key, same == worker.end() ? "trainer" : "both");
    if (same == worker.end()) continue;
    EXPECT_EQ(row_of(*same, "both"), row_of(key, "both")) << "one key, one row";
  }
  for (const ConfigKey& key : worker) {
    const auto is_it = [&](const ConfigKey& other) { return other.key == key.key; };
    if (std::none_of(trainer.begin(), trainer.end(), is_it)) expected += row_of(key, "worker");
  }

  const std::string path = WEIGHTCAST_SOURCE_ROOT "/docs/configuration.md";
  std::ifstream file(path);
  const std::string document{std::istreambuf_iterator<char>(file), {}};

  ASSERT_FALSE(document.empty()) << path;
  EXPECT_NE(document.find("\n\n" + expected + "\n"), std::string::npos)
      << path << " should hold this table:\n\n"
      << expected;
}

}  // namespace
}  // namespace weightcast
