#include "plan/nccl_leaders.hpp"

#include <algorithm>
#include <map>
#include <numeric>

namespace weightcast::plan {

std::vector<NcclSeat> choose_leaders(std::span<const NcclCandidate> candidates,
                                     std::uint32_t most_seats) {
  std::vector<std::uint32_t> order(candidates.size());
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const NcclCandidate& x = candidates[a];
    const NcclCandidate& y = candidates[b];
    return x.is_joined != y.is_joined ? x.is_joined : x.name < y.name;
  });
  struct Place {
    std::uint32_t leader = 0;
    std::uint32_t taken = 0;
  };
  std::map<std::string, Place> places;
  std::vector<NcclSeat> seats(candidates.size());
  for (const std::uint32_t i : order) {
    const std::string& place = candidates[i].place;
    if (place.empty()) {
      seats[i].leader = i;
      continue;
    }
    const auto [it, is_first] = places.try_emplace(place, Place{i, 0});
    if (is_first) {
      seats[i].leader = i;
    } else if (it->second.taken < most_seats) {
      seats[i] = {it->second.leader, it->second.taken++};
    }
  }
  return seats;
}

}  // namespace weightcast::plan
