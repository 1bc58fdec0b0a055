// What dead trainers and engines left in shared memory and in meeting places.
#include "doctor/findings.hpp"
#include "staging/sweep.hpp"
#include "stream/place_leftovers.hpp"

namespace weightcast::doctor {
namespace {

constexpr const char* kSlots = "stale slots";
constexpr const char* kPlaces = "stale meeting places";
constexpr const char* kClean = "weightcast doctor --clean";

std::string listed(const std::vector<std::string>& names) {
  constexpr std::size_t kMost = 20;
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < kMost; ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  if (names.size() > kMost) text += ", and " + std::to_string(names.size() - kMost) + " more";
  return text;
}

void clean_slots(Findings& out) {
  const staging::SweepReport report = staging::sweep("");
  if (report.removed > 0) {
    out.note(kSlots, "removed " + std::to_string(report.removed) +
                         " objects of dead trainers and engines from /dev/shm: " +
                         listed(report.names));
  }
}

void check_slots(bool clean, Findings& out) {
  if (clean) clean_slots(out);
  std::size_t alive = 0;
  std::uint64_t bytes = 0;
  std::size_t objects = 0;
  std::size_t held = 0;
  std::vector<std::string> dead;
  std::vector<std::string> in_use;
  for (const staging::SlabRemains& slab : staging::survey("")) {
    if (slab.is_alive) {
      alive += slab.is_board ? 0 : 1;
      continue;
    }
    if (slab.held > 0) {
      held += slab.held;
      in_use.push_back(slab.prefix);
    }
    if (slab.free.empty()) continue;
    objects += slab.free.size();
    bytes += slab.bytes;
    dead.push_back(slab.prefix);
  }
  if (objects > 0) {
    out.warning(kSlots,
                std::to_string(objects) + " objects of dead trainers and engines take " +
                    about(bytes) + " of /dev/shm: " + listed(dead),
                std::string(kClean) + " (the next trainer of this user removes them, too)");
  }
  if (held > 0) {
    out.note(kSlots,
             std::to_string(held) +
                 " slots of dead trainers are still read by engines, which serve "
                 "on from them: " +
                 listed(in_use),
             "none: they go with the engines, or once these have a newer version");
  }
  if (objects == 0 && held == 0) {
    out.ok(kSlots, "none; " + std::to_string(alive) + " ranks of this user publish from this host");
  }
}

void check_places(const Patient& patient, Findings& out) {
  std::size_t found = 0;
  for (const std::string& place : stream::list_places(patient.base)) {
    const auto state = patient.clean ? stream::clean_place(place) : stream::look_at_place(place);
    // The one that this configuration uses has a check of its own; others' faults are others'.
    if (!state || state->files.empty()) continue;
    ++found;
    const std::string what = listed(state->files) + " in " + place;
    const std::string whose =
        state->pid == 0 ? "" : " (its rank 0 was pid " + std::to_string(state->pid) + ")";
    if (patient.clean) {
      out.note(kPlaces, "removed what a dead trainer left" + whose + ": " + what);
    } else {
      out.warning(kPlaces, "a dead trainer" + whose + " left " + what,
                  std::string(kClean) + " (the next trainer there removes it, too)");
    }
  }
  if (found == 0) out.ok(kPlaces, "none below " + patient.base);
}

}  // namespace

void check_leftovers(const Patient& patient, Findings& out) {
  check_slots(patient.clean, out);
  if (!patient.base.empty()) check_places(patient, out);
}

}  // namespace weightcast::doctor
