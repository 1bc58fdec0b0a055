// What a trainer that died left in its meeting place. A trainer that starts there removes it
// itself; this is for places where none does.
#pragma once

#include <string>
#include <vector>

#include <weightcast/types.hpp>

namespace weightcast::stream {

struct PlaceState {
  std::string place;
  bool is_held = false;              ///< a trainer lives here: nothing is left over
  Run last_run;                      ///< the newest that ever held it; none where that is unknown
  std::uint64_t pid = 0;             ///< of that run's rank 0; 0: unknown
  std::vector<std::string> files{};  ///< sockets and announcements of dead runs: names in `place`
};

/// Looks, by the lock that a living trainer holds; removes nothing. Waits for at most 200 ms.
/// @return as lock_private_directory
Result<PlaceState> look_at_place(const std::string& place);

/// Removes what look_at_place() would name; `files` then is what is gone. The lock's file stays: it
/// remembers the newest run.
Result<PlaceState> clean_place(const std::string& place);

/// The meeting places below a base directory, `<directory>/<job>/<policy>`, sorted; at most 1000.
/// None below what is not this user's alone.
std::vector<std::string> list_places(const std::string& directory);

}  // namespace weightcast::stream
