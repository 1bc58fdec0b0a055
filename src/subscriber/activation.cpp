#include "subscriber/activation.hpp"

#include <algorithm>
#include <array>

namespace weightcast::subscriber {
namespace {

constexpr std::array kByFreedom{Activation::kView, Activation::kFlip, Activation::kStaged,
                                Activation::kSerial};

std::string in_mib(std::uint64_t bytes) {
  return std::to_string(bytes / (1024 * 1024)) + " MiB (" + std::to_string(bytes) + " bytes)";
}

/// Why the engine or the version rules it out; empty where they do not.
std::string why_not(Activation activation, const ActivationNeeds& needs) {
  const bool moves = activation == Activation::kView || activation == Activation::kFlip;
  if (moves && needs.fixed_addresses) {
    return "this engine wants tensors at fixed addresses";
  }
  return activation == Activation::kView ? needs.why_no_view : std::string();
}

std::uint64_t bytes_of(Activation activation, const ActivationNeeds& needs) {
  return activation_bytes(activation, needs.image_bytes, needs.bucket_bytes);
}

std::string describe_bytes(Activation activation, const ActivationNeeds& needs) {
  if (activation == Activation::kView) return "no memory of its own";
  const char* images = activation == Activation::kSerial ? "one image of " : "two images of ";
  std::string text = images + in_mib(needs.image_bytes);
  if (needs.bucket_bytes != 0) text += " and " + in_mib(needs.bucket_bytes) + " of buckets";
  return text;
}

Status too_little(Activation activation, const ActivationNeeds& needs) {
  const std::uint64_t image_short = bytes_of(Activation::kSerial, needs);
  std::string remedy = "free memory, raise memory_budget, or have the trainer publish in a smaller "
                       "dtype";
  if (activation != Activation::kSerial) {
    remedy += "; activation auto takes the first that fits (serial needs " + in_mib(image_short) +
              ")";
  } else if (needs.why_no_view.empty() && !needs.fixed_addresses) {
    remedy += "; activation view needs none";
  }
  return Status(Code::kExhausted, std::string("activation ") + activation_name(activation) +
                                      " needs " + in_mib(bytes_of(activation, needs)) + ", " +
                                      describe_bytes(activation, needs) + ", but " +
                                      needs.budget.source + " allows " +
                                      in_mib(needs.budget.bytes) + "; " + remedy);
}

void add(std::string& text, const std::string& part) {
  if (!text.empty()) text += "; ";
  text += part;
}

Result<ActivationChoice> explicit_choice(const ActivationNeeds& needs) {
  if (const std::string why = why_not(needs.wanted, needs); !why.empty()) {
    return Status(Code::kInvalid, std::string("activation ") + activation_name(needs.wanted) +
                                      " is not possible here: " + why + "; use auto, " +
                                      (needs.fixed_addresses ? "staged" : "flip, staged") +
                                      " or serial");
  }
  const std::uint64_t bytes = bytes_of(needs.wanted, needs);
  if (bytes > needs.budget.bytes) return too_little(needs.wanted, needs);
  return ActivationChoice{needs.wanted, bytes, "chosen by the configuration"};
}

}  // namespace

MemoryBudget budget_of(std::uint64_t configured, const staging::MemoryRoom& room,
                       std::uint64_t taken) {
  MemoryBudget budget{~std::uint64_t{0}, "this machine"};
  const auto lower = [&](std::uint64_t bytes, const char* source) {
    if (bytes < budget.bytes) budget = {bytes, source};
  };
  const auto usable = [&](std::uint64_t free) { return taken + (free - free / 16); };
  if (room.mem_available) {
    lower(usable(*room.mem_available), "what this machine has available, less a sixteenth,");
  }
  if (room.cgroup_free) {
    lower(usable(*room.cgroup_free), "what this process's cgroup has left, less a sixteenth,");
  }
  if (configured != 0) lower(configured, "memory_budget");
  return budget;
}

const char* activation_name(Activation activation) noexcept {
  switch (activation) {
    case Activation::kAuto: return "auto";
    case Activation::kView: return "view";
    case Activation::kFlip: return "flip";
    case Activation::kStaged: return "staged";
    case Activation::kSerial: return "serial";
  }
  return "?";
}

std::uint64_t activation_bytes(Activation activation, std::uint64_t image_bytes,
                               std::uint64_t bucket_bytes) noexcept {
  if (activation == Activation::kView) return 0;
  const std::uint64_t images = activation == Activation::kSerial ? 1 : 2;
  return images * image_bytes + bucket_bytes;
}

Result<ActivationChoice> choose_activation(const ActivationNeeds& needs) {
  if (needs.wanted != Activation::kAuto) return explicit_choice(needs);
  std::string passed_over;
  for (const Activation activation : kByFreedom) {
    const std::string name = activation_name(activation);
    if (const std::string why = why_not(activation, needs); !why.empty()) {
      add(passed_over, "not " + name + ", because " + why);
      continue;
    }
    if (activation < needs.least) continue;
    const std::uint64_t bytes = bytes_of(activation, needs);
    if (bytes > needs.budget.bytes) {
      add(passed_over, "not " + name + ", which needs " + in_mib(bytes) + " where " +
                           needs.budget.source + " allows " + in_mib(needs.budget.bytes));
      continue;
    }
    std::string reason = "auto: " + name + " takes " + describe_bytes(activation, needs);
    if (activation == Activation::kView) reason += ": the sealed slots are served in place";
    if (!needs.why_least.empty()) add(reason, needs.why_least);
    if (!passed_over.empty()) add(reason, passed_over);
    return ActivationChoice{activation, bytes, std::move(reason)};
  }
  return too_little(Activation::kSerial, needs);
}

}  // namespace weightcast::subscriber
