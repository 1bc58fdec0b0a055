#include "config/torchrun.hpp"

#include <cstdint>
#include <optional>
#include <string>

#include "base/config.hpp"
#include "config/assignment.hpp"
#include "config/place.hpp"

namespace weightcast::config {
namespace {

Origin said_by(const std::string& variables) {
  return {ConfigSource::kTorchrun, "torchrun's " + variables};
}

struct Node {
  std::uint64_t group = 0;  // 0 is rank 0's
  bool is_alone = true;
};

Result<Node> read_node(const TrainerSettings& settings) {
  auto local_size = base::environment_number("LOCAL_WORLD_SIZE", 1, kMaxRanks);
  if (!local_size) return local_size.status();
  if (!*local_size) return Node{};
  auto local_rank = base::environment_number("LOCAL_RANK", 0, **local_size - 1);
  if (!local_rank) return local_rank.status();
  auto group = base::environment_number("GROUP_RANK", 0, kMaxRanks - 1);
  if (!group) return group.status();
  if (**local_size >= settings.world_size) return Node{};
  if (!*group) {
    return Status(
        Code::kInvalid,
        "LOCAL_WORLD_SIZE=" + std::to_string(**local_size) +
            " is below WORLD_SIZE=" + std::to_string(settings.world_size) +
            ", so the job spans nodes, but the environment variable GROUP_RANK is not set: "
            "expected the node's number, which torchrun sets; or set listen on rank 0 and "
            "coordinator on ranks of other hosts");
  }
  return Node{**group, false};
}

}  // namespace

Status take_rank(TrainerSettings& settings, Origins& origins) {
  auto world_size = base::environment_number("WORLD_SIZE", 1, kMaxRanks);
  if (!world_size) return world_size.status();
  auto rank = base::environment_number("RANK", 0, kMaxRanks - 1);
  if (!rank) return rank.status();
  if (rank->has_value() != world_size->has_value()) {
    return Status(Code::kInvalid,
                  "one of the environment variables RANK and WORLD_SIZE is set without the other; "
                  "torchrun sets both");
  }
  if (*rank) {
    settings.rank = static_cast<std::uint32_t>(**rank);
    settings.world_size = static_cast<std::uint32_t>(**world_size);
    origins["rank"] = said_by("RANK");
    origins["world_size"] = said_by("WORLD_SIZE");
  }
  if (auto run_id = base::environment("TORCHELASTIC_RUN_ID")) {
    settings.launch = *run_id + "." + base::environment("TORCHELASTIC_RESTART_COUNT").value_or("0");
    origins["launch"] = said_by("TORCHELASTIC_RUN_ID and TORCHELASTIC_RESTART_COUNT");
  }
  return Status::ok();
}

Status take_place(TrainerSettings& settings, Origins& origins) {
  const auto is_from_torchrun = [&](const char* key) {
    const auto it = origins.find(key);
    return it != origins.end() && it->second.source == ConfigSource::kTorchrun;
  };
  if (!is_from_torchrun("rank") || !is_from_torchrun("world_size")) return Status::ok();
  // Set to nothing on purpose is set, too.
  const bool listens = !settings.listen.empty() || origins.contains("listen");
  const bool is_sent = !settings.coordinator.empty() || origins.contains("coordinator");
  if (settings.rank == 0 ? listens : is_sent) return Status::ok();

  const Result<Node> node = read_node(settings);
  if (!node) return node.status();
  // Beside rank 0 they find it without a word, but engines of other hosts want their bytes.
  const bool with_rank_0 = settings.rank == 0 || node->group == 0;
  if (node->is_alone || (with_rank_0 && listens)) return Status::ok();
  const auto master = base::environment("MASTER_ADDR");
  if (!master || !is_host(*master)) {
    return Status(
        Code::kInvalid,
        "environment variable MASTER_ADDR=" + shown(master.value_or("")) +
            ": the job spans nodes, so expected the name or address of rank 0's host, which "
            "torchrun sets; or set listen on rank 0 and coordinator on ranks of other hosts");
  }
  if (with_rank_0) {
    const bool is_ipv6 = master->find(':') != std::string::npos;
    settings.listen = show_place(is_ipv6 ? "::" : "0.0.0.0", settings.port);
    origins["listen"] = said_by("LOCAL_WORLD_SIZE: the job spans nodes");
  } else {
    // All ranks read the same file: where that sets rank 0's place, the port is there.
    const auto its = parse_place(settings.listen);
    settings.coordinator = show_place(*master, its && its->port != 0 ? its->port : settings.port);
    origins["coordinator"] = said_by("MASTER_ADDR: the job spans nodes");
  }
  return Status::ok();
}

}  // namespace weightcast::config
