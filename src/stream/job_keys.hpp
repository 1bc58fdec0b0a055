// Which keys a member of a job uses: those of the configuration, or the ones that a host's members
// make for themselves.
#pragma once

#include <string>

#include <weightcast/status.hpp>

#include "stream/control_socket.hpp"

namespace weightcast::stream {

/// What the options say.
struct KeyChoice {
  std::string place;        ///< the meeting place, <base>/<job>/<policy>
  std::string folder;       ///< option `keys`
  std::string listen;       ///< option `listen`; empty: not given
  std::string coordinator;  ///< option `coordinator`; empty: on this host
};

/// Loads the keys of a job. Without a folder they are those in `<base>/<job>/.keys` (no policy has
/// such a name), made by whoever comes first.
/// @return kInvalid, with the command that makes keys, where other hosts may take part but no
/// folder
///   is given; otherwise as keys::KeyRing::load and load_or_make
Result<Keys> keys_of_job(const KeyChoice& choice, keys::Role role);

/// As keys_of_job, for the control channel alone: null where nothing of it goes over tcp.
Result<Keys> control_keys(const KeyChoice& choice, keys::Role role);

}  // namespace weightcast::stream
