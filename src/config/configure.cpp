#include <utility>

#include <weightcast/config.hpp>
#include <weightcast/log.hpp>

#include "config/check.hpp"
#include "config/keys.hpp"
#include "config/sources.hpp"
#include "config/torchrun.hpp"

namespace weightcast {
namespace config {
namespace {

template <class S>
struct Outcome {
  S settings;
  Origins origins;
};

template <class S>
constexpr Scope kScopeOf = Scope::kTrainer;
template <>
constexpr Scope kScopeOf<WorkerSettings> = Scope::kWorker;

template <class S>
Status set(S& settings, const Key<S>& key, const Assignment& its) {
  if (key.set(settings, its.value + its.unit)) return Status::ok();
  const std::string of_unit = its.unit.empty() ? "" : "whole " + its.unit + ", ";
  return Status(Code::kInvalid, "option " + key.name + " = " + shown(its.value) + " (" +
                                    its.origin + "): expected " + of_unit + key.allowed);
}

/// Sets what is meant for this side. What is meant for `Other` is set there, to be checked.
template <class S, class Other>
Result<Outcome<S>> resolve(S settings, const ConfigSources& sources) {
  Result<std::vector<Assignment>> assignments = gather(sources);
  if (!assignments) return assignments.status();
  Outcome<S> out{std::move(settings), {}};
  Other other;
  if (Status s = take_rank(out.settings, out.origins); !s) return s;
  for (const Assignment& its : *assignments) {
    const Key<S>* key = its.scope == kScopeOf<Other> ? nullptr : find_key<S>(its.key);
    if (key == nullptr) {
      if (Status s = set(other, *find_key<Other>(its.key), its); !s) return s;
      continue;
    }
    if (Status s = set(out.settings, *key, its); !s) return s;
    out.origins[its.key] = {its.source, its.origin};
  }
  if (Status s = take_place(out.settings, out.origins); !s) return s;
  return out;
}

template <class Other, class Options>
Result<Options> configure_side(Options defaults, const ConfigSources& sources) {
  auto out = resolve<Settings<Options>, Other>(Settings<Options>(std::move(defaults)), sources);
  if (!out) return out.status();
  if (Status s = check(out->settings, out->origins); !s) return s;
  if (out->origins.contains("log")) set_log_level(out->settings.log);
  if (out->origins.contains("log_format")) set_log_format(out->settings.log_format);
  return static_cast<Options&&>(std::move(out->settings));
}

template <class Other, class Options>
Result<std::vector<ConfigKey>> describe_side(const Options& defaults,
                                             const ConfigSources& sources) {
  using S = Settings<Options>;
  auto out = resolve<S, Other>(S(defaults), sources);
  if (!out) return out.status();
  const S untouched;
  std::vector<ConfigKey> described;
  for (const Key<S>& key : keys_of<S>()) {
    ConfigKey& its = described.emplace_back();
    its.key = key.name;
    its.type = key.type;
    its.default_value = key.show(untouched);
    its.allowed = key.allowed;
    its.meaning = key.meaning;
    for (const Variable& variable : key.variables) its.variables.push_back(variable.name);
    its.value = key.show(out->settings);
    if (const auto origin = out->origins.find(key.name); origin != out->origins.end()) {
      its.source = origin->second.source;
      its.origin = origin->second.text;
    } else if (its.value != its.default_value) {
      its.source = ConfigSource::kProgram;
    }
  }
  return described;
}

}  // namespace
}  // namespace config

Result<PublisherOptions> configure(PublisherOptions defaults, const ConfigSources& sources) {
  return config::configure_side<config::WorkerSettings>(std::move(defaults), sources);
}
Result<SubscriberOptions> configure(SubscriberOptions defaults, const ConfigSources& sources) {
  return config::configure_side<config::TrainerSettings>(std::move(defaults), sources);
}

Result<PublisherOptions> with_environment(PublisherOptions base) {
  return configure(std::move(base), {});
}
Result<SubscriberOptions> with_environment(SubscriberOptions base) {
  return configure(std::move(base), {});
}

Result<std::vector<ConfigKey>> describe_config(const PublisherOptions& defaults,
                                               const ConfigSources& sources) {
  return config::describe_side<config::WorkerSettings>(defaults, sources);
}
Result<std::vector<ConfigKey>> describe_config(const SubscriberOptions& defaults,
                                               const ConfigSources& sources) {
  return config::describe_side<config::TrainerSettings>(defaults, sources);
}

const char* config_source_name(ConfigSource source) noexcept {
  switch (source) {
    case ConfigSource::kDefault:
      return "default";
    case ConfigSource::kTorchrun:
      return "torchrun";
    case ConfigSource::kProgram:
      return "program";
    case ConfigSource::kFile:
      return "file";
    case ConfigSource::kEnvironment:
      return "environment";
    case ConfigSource::kFlag:
      return "flag";
  }
  return "unknown";
}

}  // namespace weightcast
