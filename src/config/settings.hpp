// What the keys of one side set: its options, and what has no field there.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include <weightcast/config.hpp>
#include <weightcast/log.hpp>

namespace weightcast::config {

/// At which rank 0 of a job that spans nodes listens unless it is told otherwise: near torchrun's
/// own 29500, which is torchrun's.
inline constexpr std::uint32_t kDefaultPort = 29577;

/// Keys that are no options of a publisher or subscriber.
struct Beside {
  std::string config;
  LogLevel log = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
  std::uint32_t port = kDefaultPort;
};

template <class Options>
struct Settings : Options, Beside {
  Settings() = default;
  explicit Settings(Options options) : Options(std::move(options)) {}
};

using TrainerSettings = Settings<PublisherOptions>;
using WorkerSettings = Settings<SubscriberOptions>;

/// Where a value came from, and in words.
struct Origin {
  ConfigSource source = ConfigSource::kDefault;
  std::string text;
};

/// By key; a key without one has its default or what the program gave.
using Origins = std::map<std::string, Origin, std::less<>>;

}  // namespace weightcast::config
