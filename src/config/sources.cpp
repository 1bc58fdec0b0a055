#include "config/sources.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

#include "base/config.hpp"
#include "config/keys.hpp"
#include "config/nearest.hpp"
#include "config/toml_file.hpp"

namespace weightcast::config {
namespace {

constexpr std::string_view kPrefix = "WEIGHTCAST_";

// Variables of the scripts, tests and benchmarks around the library.
constexpr std::array<std::string_view, 3> kToolVariables = {"WEIGHTCAST_VENV", "WEIGHTCAST_PYTHON",
                                                            "WEIGHTCAST_NCCL_LIBRARY"};
constexpr std::array<std::string_view, 3> kToolPrefixes = {"WEIGHTCAST_SIM_", "WEIGHTCAST_TEST_",
                                                           "WEIGHTCAST_BENCH_"};

std::vector<std::string> all_names() {
  std::vector<std::string> names;
  for (const auto& key : trainer_keys()) names.push_back(key.name);
  for (const auto& key : worker_keys()) {
    if (find_key<TrainerSettings>(key.name) == nullptr) names.push_back(key.name);
  }
  return names;
}

std::string meant(const std::string& word, const std::vector<std::string>& known) {
  if (const std::string near = nearest(word, known); !near.empty()) {
    return "did you mean " + near + "?";
  }
  std::string text = "expected one of";
  for (std::size_t i = 0; i < known.size(); ++i) text += (i == 0 ? " " : ", ") + known[i];
  return text;
}

Status check_key(const Assignment& its) {
  const bool of_trainer = find_key<TrainerSettings>(its.key) != nullptr;
  const bool of_worker = find_key<WorkerSettings>(its.key) != nullptr;
  if (!of_trainer && !of_worker) {
    return Status(Code::kInvalid, "unknown key " + shown(its.key) + " (" + its.origin +
                                      "): " + meant(its.key, all_names()));
  }
  const bool is_misplaced =
      (its.scope == Scope::kTrainer && !of_trainer) || (its.scope == Scope::kWorker && !of_worker);
  if (is_misplaced) {
    const std::string here = its.scope == Scope::kTrainer ? "[trainer]" : "[worker]";
    const std::string there = its.scope == Scope::kTrainer ? "[worker]" : "[trainer]";
    return Status(Code::kInvalid, "key " + its.key + " in " + here + " (" + its.origin +
                                      "): only the other side has it; expected it in " + there +
                                      " or before the sections");
  }
  if (its.key == "config" && its.source == ConfigSource::kFile) {
    return Status(Code::kInvalid, "key config (" + its.origin +
                                      "): a file cannot name another; expected it as the flag "
                                      "--weightcast.config or in WEIGHTCAST_CONFIG");
  }
  return Status::ok();
}

/// Kubernetes tells each container of the services around it, in variables that begin with the
/// service's name, which may be weightcast or weightcast-something.
bool is_of_kubernetes(std::string_view name, std::string_view value) {
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (has("_SERVICE_HOST") || has("_SERVICE_PORT")) return true;
  const bool is_address = value.starts_with("tcp://") || value.starts_with("udp://");
  if (name.ends_with("_PORT") && is_address) return true;
  return has("_PORT_") && (has("_TCP") || has("_UDP"));
}

bool is_of_tools(std::string_view name) {
  return std::find(kToolVariables.begin(), kToolVariables.end(), name) != kToolVariables.end() ||
         std::any_of(kToolPrefixes.begin(), kToolPrefixes.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); });
}

struct Owner {
  std::string key;
  std::string unit;
};

std::map<std::string, Owner> all_variables() {
  std::map<std::string, Owner> variables;
  const auto add = [&](const auto& keys) {
    for (const auto& key : keys) {
      for (const Variable& variable : key.variables) {
        variables[variable.name] = {key.name, variable.unit};
      }
    }
  };
  add(trainer_keys());
  add(worker_keys());
  return variables;
}

Status gather_environment(std::vector<Assignment>& out) {
  const std::map<std::string, Owner> known = all_variables();
  std::map<std::string, std::string> seen;  // the variable that set a key
  for (auto& [name, value] : base::environment_with_prefix(kPrefix)) {
    if (is_of_tools(name) || is_of_kubernetes(name, value)) continue;
    const auto owner = known.find(name);
    if (owner == known.end()) {
      std::vector<std::string> names;
      for (const auto& [its_name, its] : known) names.push_back(its_name);
      return Status(Code::kInvalid, "unknown key (environment variable " + name + "=" +
                                        shown(value) + "): " + meant(name, names));
    }
    const auto& [key, unit] = owner->second;
    if (const auto [other, is_new] = seen.emplace(key, name); !is_new) {
      return Status(Code::kInvalid, "option " + key + ": the environment variables " +
                                        other->second + " and " + name +
                                        " both set it; expected one of them");
    }
    out.push_back({key, std::move(value), ConfigSource::kEnvironment,
                   "environment variable " + name, Scope::kBoth, unit});
  }
  return Status::ok();
}

template <class S>
bool is_truth(const std::string& name) {
  const Key<S>* key = find_key<S>(name);
  return key != nullptr && key->type == Truth::kType;
}

Result<Assignment> read_flag(const std::string& flag) {
  const std::size_t equals = flag.find('=');
  Assignment its;
  its.key = flag.substr(0, equals);
  std::replace(its.key.begin(), its.key.end(), '-', '_');
  its.source = ConfigSource::kFlag;
  its.origin = "flag --weightcast." + its.key;
  if (Status s = check_key(its); !s) return s;
  if (equals != std::string::npos) {
    its.value = flag.substr(equals + 1);
  } else if (is_truth<TrainerSettings>(its.key) || is_truth<WorkerSettings>(its.key)) {
    its.value = "true";
  } else {
    return Status(Code::kInvalid, "option " + its.key + " (" + its.origin +
                                      "): it has no value; expected " + its.origin.substr(5) +
                                      "=VALUE");
  }
  return its;
}

/// The file's path; empty for none.
std::string path_of_file(const ConfigSources& sources, const std::vector<Assignment>& flags) {
  std::string path =
      sources.file.empty() ? base::environment("WEIGHTCAST_CONFIG").value_or("") : sources.file;
  for (const Assignment& flag : flags) {
    if (flag.key == "config") path = flag.value;
  }
  return path;
}

}  // namespace

Result<std::vector<Assignment>> gather(const ConfigSources& sources) {
  std::vector<Assignment> flags;
  for (const std::string& flag : sources.flags) {
    Result<Assignment> its = read_flag(flag);
    if (!its) return its.status();
    flags.push_back(std::move(its).value());
  }

  std::vector<Assignment> all;
  if (const std::string path = path_of_file(sources, flags); !path.empty()) {
    Result<std::vector<Assignment>> from_file = read_toml(path);
    if (!from_file) return from_file.status();
    for (const Assignment& its : *from_file) {
      if (Status s = check_key(its); !s) return s;
    }
    all = std::move(from_file).value();
  }
  if (Status s = gather_environment(all); !s) return s;
  if (!sources.file.empty()) {
    all.push_back({"config", sources.file, ConfigSource::kProgram, "program"});
  }
  std::move(flags.begin(), flags.end(), std::back_inserter(all));
  return all;
}

}  // namespace weightcast::config
