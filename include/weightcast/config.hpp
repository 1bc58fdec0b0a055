// Configuration: command line flag > WEIGHTCAST_* environment > TOML file > default. The defaults
// are the program's own and torchrun's. docs/configuration.md has the table of keys.
#pragma once

#include <string>
#include <vector>

#include <weightcast/export.hpp>
#include <weightcast/publisher.hpp>
#include <weightcast/status.hpp>
#include <weightcast/subscriber.hpp>

namespace weightcast {

/// What a program adds to the environment.
struct ConfigSources {
  std::vector<std::string> flags;  ///< "key=value", as take_flags() returns them; of two with the
                                   ///< same key the later one counts
  std::string file;  ///< path of a TOML file; empty: WEIGHTCAST_CONFIG's, else none. The
                     ///< flag `config` goes before it
};

/// Takes `--weightcast.KEY=VALUE` and `--weightcast.KEY VALUE` out of the arguments of main(), up
/// to an argument "--". KEY may be written with dashes for underscores. A key that is true or false
/// may stand alone. Nothing is checked here: configure() does. Does not fail.
/// @return "KEY=VALUE" for each, in their order, for ConfigSources::flags
WEIGHTCAST_API std::vector<std::string> take_flags(int& argc, char** argv);

/// `defaults` with everything over it that the sources, the environment and torchrun say, checked.
/// Fill `defaults` with what the program itself knows (its rank, say) before. The keys `log` and
/// `log_format` set this process's log level and format on the way. Keys that only the other side knows are checked and passed
/// over. Reads a file; does not wait. Thread safety: as long as nobody changes the environment
/// meanwhile.
/// @return kInvalid that names the key, its value, where it came from and what is allowed;
/// kNotFound
///   for a file that cannot be read
WEIGHTCAST_API Result<PublisherOptions> configure(PublisherOptions defaults,
                                                  const ConfigSources& sources);
WEIGHTCAST_API Result<SubscriberOptions> configure(SubscriberOptions defaults,
                                                   const ConfigSources& sources);

/// Where a value came from. kProgram: the defaults given differ from the built-in ones.
enum class ConfigSource { kDefault, kTorchrun, kProgram, kFile, kEnvironment, kFlag };

/// "default", "torchrun", "program", "file", "environment" or "flag".
WEIGHTCAST_API const char* config_source_name(ConfigSource source) noexcept;

/// One key of the table, with its present value.
struct ConfigKey {
  std::string key;
  std::string type;  ///< "text", "whole number", "size", "duration", "choice", "true or false"
  std::string default_value;  ///< as it would be written; empty where the default is empty
  std::string allowed;
  std::string meaning;
  std::vector<std::string> variables;  ///< of the environment; only one of them may be set
  std::string value;                   ///< as it would be written
  ConfigSource source = ConfigSource::kDefault;
  std::string origin;  ///< "flag --weightcast.slots", "job.toml:3"; empty: default or program
};

/// The whole table of one side, with the values that configure() would find; combinations of them
/// are not checked. Changes nothing.
/// @return as configure() for a key or a value that is not allowed
WEIGHTCAST_API Result<std::vector<ConfigKey>> describe_config(const PublisherOptions& defaults,
                                                              const ConfigSources& sources);
WEIGHTCAST_API Result<std::vector<ConfigKey>> describe_config(const SubscriberOptions& defaults,
                                                              const ConfigSources& sources);

}  // namespace weightcast
