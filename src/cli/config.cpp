// weightcast config: every key with its meaning, its value and where that came from; and the check
// of a file, with the errors that programs give.
#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include <weightcast/config.hpp>

#include "cli/command.hpp"
#include "cli/sides.hpp"

namespace weightcast::cli {
namespace {

struct ConfigLine {
  std::string side = "auto";
  std::string file;
  bool is_json = false;
  CLI::App* check = nullptr;
  std::string checked_file;
};

std::string origin_of(const ConfigKey& key) {
  return key.origin.empty() ? config_source_name(key.source) : key.origin;
}

std::string in_quotes(const std::string& value) { return value.empty() ? "(empty)" : value; }

void print_text(const std::string& side, const std::vector<ConfigKey>& keys, std::ostream& out) {
  out << "[" << side << "]\n";
  for (const ConfigKey& key : keys) {
    out << key.key << " = " << in_quotes(key.value) << "    (" << origin_of(key) << ")\n"
        << "    " << key.meaning << "\n"
        << "    type: " << key.type;
    if (key.allowed != key.type) out << ": " << key.allowed;
    out << "; default: " << in_quotes(key.default_value) << "; environment:";
    for (const std::string& variable : key.variables) out << " " << variable;
    out << "\n";
  }
}

nlohmann::ordered_json to_json(const std::vector<ConfigKey>& keys) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ConfigKey& key : keys) {
    list.push_back({{"key", key.key},
                    {"type", key.type},
                    {"default", key.default_value},
                    {"allowed", key.allowed},
                    {"meaning", key.meaning},
                    {"variables", key.variables},
                    {"value", key.value},
                    {"source", config_source_name(key.source)},
                    {"origin", key.origin}});
  }
  return list;
}

/// The first error of the sides that are asked for; as programs of that side give it.
Status check(const Sides& sides, const ConfigSources& sources) {
  if (sides.trainer) {
    if (const auto its = configure(PublisherOptions{}, sources); !its) {
      return {its.status().code(), "trainer: " + its.status().message()};
    }
  }
  if (sides.worker) {
    if (const auto its = configure(SubscriberOptions{}, sources); !its) {
      return {its.status().code(), "worker: " + its.status().message()};
    }
  }
  return Status::ok();
}

int config(const ConfigLine& line, const Context& context) {
  const bool is_check = line.check->parsed();
  const ConfigSources sources{context.flags, is_check ? line.checked_file : line.file};
  const Sides sides = sides_of(line.side, sources);
  const auto fail = [&](const Status& status) {
    context.err << "weightcast config: " << status.message() << "\n";
    return 1;
  };
  if (is_check) {
    if (const Status status = check(sides, sources); !status) return fail(status);
    context.out << line.checked_file << ": every key is known and allowed, and they go together\n";
    context.out.flush();
    return context.out ? 0 : 1;
  }
  nlohmann::ordered_json all = nlohmann::ordered_json::object();
  const auto show = [&](const char* side, const auto& defaults) {
    const auto keys = describe_config(defaults, sources);
    if (!keys) return keys.status();
    if (line.is_json) {
      all[side] = to_json(*keys);
    } else {
      print_text(side, *keys, context.out);
    }
    return Status::ok();
  };
  if (sides.trainer) {
    if (const Status status = show("trainer", PublisherOptions{}); !status) return fail(status);
  }
  if (sides.worker) {
    if (const Status status = show("worker", SubscriberOptions{}); !status) return fail(status);
  }
  if (line.is_json) {
    context.out << all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  }
  // Values that are allowed each may still not go together.
  if (const Status status = check(sides, sources); !status) return fail(status);
  context.out.flush();
  return context.out ? 0 : 1;
}

}  // namespace

Command add_config(CLI::App& application) {
  CLI::App* app = application.add_subcommand(
      "config", "Show every key: type, default, meaning, present value and where it came from");
  app->footer(
      "Takes --weightcast.KEY=VALUE, as programs do. Exits with 1 where a key or a value is "
      "not allowed.");
  const auto line = std::make_shared<ConfigLine>();
  add_side(*app, line->side);
  app->add_option("--config", line->file, "The TOML file to read; else WEIGHTCAST_CONFIG's")
      ->type_name("FILE");
  app->add_flag("--json", line->is_json, "Print one JSON object");
  app->require_subcommand(0, 1);
  line->check = app->add_subcommand("check", "Check a file as programs do when they start");
  line->check->add_option("FILE", line->checked_file, "The TOML file")->required();
  return {app, [line](const Context& context) { return config(*line, context); }, true};
}

}  // namespace weightcast::cli
