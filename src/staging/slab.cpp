#include "staging/slab.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <limits>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/signal_mask.hpp"
#include "staging/memory_room.hpp"
#include "staging/object_name.hpp"
#include "staging/pages.hpp"
#include "staging/shm_object.hpp"
#include "staging/slot_format.hpp"

namespace weightcast::staging {
namespace {

/// Bytes reserved between two looks at what is left: several ranks of a host may start at once, and
/// each has seen the same free memory.
constexpr std::uint64_t kReserveStep = std::uint64_t{256} << 20;

/// Reserving and touching is bound by clearing pages; more threads than this gain little, and the
/// ranks of a host start together.
constexpr unsigned kTouchThreads = 2;

constexpr std::uint64_t kMaxSlotBytes = std::uint64_t{1} << 46;

Status check_options(const SlabOptions& options) {
  const auto& owner = options.owner;
  for (const auto& [what, word] :
       {std::pair{"job", &owner.job}, std::pair{"policy", &owner.policy}}) {
    if (!is_name_word(*word)) {
      return Status(Code::kInvalid, std::string(what) + " \"" + *word +
                                        "\" cannot be used in names of shared memory: expected 1 "
                                        "to 64 characters of [A-Za-z0-9_-]");
    }
  }
  if (options.slots == 0 || options.slots > kMaxSlots) {
    return Status(Code::kInvalid, "slots is " + std::to_string(options.slots) + ": expected 1 to " +
                                      std::to_string(kMaxSlots));
  }
  if (options.slot_bytes > kMaxSlotBytes / options.slots) {
    return Status(Code::kInvalid, "slot_bytes is " + std::to_string(options.slot_bytes) + " for " +
                                      std::to_string(options.slots) + " slots: expected " +
                                      std::to_string(kMaxSlotBytes) + " bytes or less in all");
  }
  return Status::ok();
}

Status reserve_failure(const std::string& name, std::uint64_t bytes, int error) {
  std::string what = "cannot reserve " + std::to_string(bytes) + " bytes of shared memory in " +
                     std::string(kShmDirectory) + "/" + name + ": " + errno_text(error);
  if (error == ENOSPC || error == ENOMEM || error == EDQUOT || error == EFBIG) {
    // Says how much there is, if it is little; else somebody else has just taken it.
    const Status room = check_memory_room(measure_memory_room(), bytes);
    return Status(Code::kExhausted,
                  what + "; " +
                      (room.is_ok() ? "it was taken meanwhile: configure fewer slots or enlarge "
                                      "it (docker run --shm-size=...)"
                                    : room.message()));
  }
  return Status(Code::kDenied, what + "; it must be a tmpfs mounted read-write");
}

}  // namespace

struct Slab::Impl {
  struct Slot {
    std::string name;
    ShmObject object;
    ShmRegion region;

    std::uint64_t capacity = 0;

    std::span<std::byte> bytes() noexcept {
      return {static_cast<std::byte*>(region.get_address()), region.get_size()};
    }
    SlotHeader& header() noexcept { return *static_cast<SlotHeader*>(region.get_address()); }
  };

  SlabOptions options;
  std::string prefix;
  std::string anchor;
  ShmObject anchor_object;
  bool anchor_owned = false;
  std::vector<Slot> slots;
  pid_t owner = ::getpid();

  ~Impl();
  Status make();
  Status make_slot(std::uint32_t index);
  Status reserve_and_touch();
  Status reserve(Slot& slot, std::atomic<bool>& give_up);
};

namespace {

void store(std::uint64_t& word, std::uint64_t value) noexcept {
  std::atomic_ref<std::uint64_t>(word).store(value, std::memory_order_release);
}

}  // namespace

Slab::Impl::~Impl() {
  // A forked child shares the locks with its parent, whose objects these still are.
  if (!anchor_owned || owner != ::getpid()) return;
  bool all_gone = true;
  for (Slot& slot : slots) {
    const int fd = descriptor(slot.object);
    if (fd < 0) continue;  // never came to be
    if (try_lock_exclusive(fd)) {
      unlink_object(slot.name);
    } else {
      all_gone = false;
    }
  }
  // As long as a slot is left the anchor is, too: unlocked, it says that the owner is gone.
  if (all_gone) unlink_object(anchor);
}

Status Slab::Impl::make() {
  const std::uint64_t bytes = options.slots * object_bytes(options.slot_bytes, options.payload_in_slots);
  if (Status room = check_memory_room(measure_memory_room(), bytes); !room) return room;

  prefix = owner_prefix(options.owner);
  anchor = anchor_name(prefix);
  Result<ShmObject> created = create_locked_object(anchor);
  if (!created) return created.status();
  anchor_object = std::move(*created);
  anchor_owned = true;

  slots.resize(options.slots);
  for (std::uint32_t i = 0; i < options.slots; ++i) {
    if (Status made = make_slot(i); !made) return made;
  }
  return reserve_and_touch();
}

Status Slab::Impl::make_slot(std::uint32_t index) {
  Slot& slot = slots[index];
  slot.name = slot_name(prefix, index);
  slot.capacity = options.slot_bytes;
  Result<ShmObject> created = create_object(slot.name);
  if (!created) return created.status();
  slot.object = std::move(*created);
  return Status::ok();
}

/// Memory first, mapping second: a page that is mapped but not reserved is a SIGBUS when it is
/// touched and none is left.
Status Slab::Impl::reserve(Slot& slot, std::atomic<bool>& give_up) {
  const std::uint64_t total = object_bytes(options.slot_bytes, options.payload_in_slots);
  const int fd = descriptor(slot.object);
  for (std::uint64_t at = 0; at < total;) {
    if (give_up.load()) return Status::ok();
    const std::uint64_t step = std::min(kReserveStep, total - at);
    if (Status room = check_memory_room(measure_memory_room(), step); !room) return room;
    const int error = ::posix_fallocate(fd, static_cast<off_t>(at), static_cast<off_t>(step));
    if (error == EINTR) continue;
    if (error != 0) return reserve_failure(slot.name, step, error);
    at += step;
  }
  Result<ShmRegion> mapped = map_object(slot.object, boost::interprocess::read_write, 0, total);
  if (!mapped) return mapped.status();
  slot.region = std::move(*mapped);
  for (std::uint64_t at = 0; at < total && !give_up.load(); at += kReserveStep) {
    touch_for_writing(slot.bytes().subspan(at, std::min(kReserveStep, total - at)));
  }
  SlotHeader& header = slot.header();
  header.format = kSlotFormat;
  header.capacity = options.slot_bytes;
  header.payload_here = options.payload_in_slots ? 1 : 0;
  store(header.magic, kSlotMagic);
  return Status::ok();
}

Status Slab::Impl::reserve_and_touch() {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  Status first_failure;
  const auto work = [&] {
    for (std::size_t i = next++; i < slots.size() && !failed.load(); i = next++) {
      Status status = reserve(slots[i], failed);
      if (status.is_ok()) continue;
      const std::lock_guard lock(mutex);
      if (!failed.exchange(true)) first_failure = std::move(status);
    }
  };
  // The calling thread works as well, under the same mask: posix_fallocate on a tmpfs undoes its
  // work when a signal comes.
  const base::ScopedSignalMask masked;
  std::vector<std::thread> helpers;
  try {
    while (helpers.size() + 1 < std::min<std::size_t>(kTouchThreads, slots.size())) {
      helpers.emplace_back(work);
    }
  } catch (const std::system_error&) {
    // No thread to be had: the calling one does it all.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  return first_failure;
}

Slab::Slab(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Slab::~Slab() = default;

Result<std::unique_ptr<Slab>> Slab::create(const SlabOptions& options) {
  if (Status checked = check_options(options); !checked) return checked;
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  if (Status made = impl->make(); !made) return made;
  return std::unique_ptr<Slab>(new Slab(std::move(impl)));
}

std::uint32_t Slab::slots() const noexcept { return impl_->options.slots; }
std::uint64_t Slab::slot_bytes() const noexcept { return impl_->options.slot_bytes; }
const std::string& Slab::object_name(std::uint32_t slot) const noexcept {
  return impl_->slots[slot].name;
}

std::span<std::byte> Slab::payload(std::uint32_t slot) noexcept {
  if (!impl_->options.payload_in_slots) return {};
  return impl_->slots[slot].bytes().subspan(header_bytes(), impl_->options.slot_bytes);
}

bool Slab::try_lock(std::uint32_t slot) noexcept {
  return try_lock_exclusive(descriptor(impl_->slots[slot].object));
}

void Slab::unlock(std::uint32_t slot) noexcept {
  staging::unlock(descriptor(impl_->slots[slot].object));
}

std::uint64_t Slab::begin_write(std::uint32_t slot) noexcept {
  SlotHeader& header = impl_->slots[slot].header();
  store(header.state, static_cast<std::uint64_t>(SlotState::kWriting));
  store(header.written, 0);
  const std::uint64_t generation = header.generation + 1;
  store(header.generation, generation);
  return generation;
}

void Slab::set_written(std::uint32_t slot, std::uint64_t bytes) noexcept {
  store(impl_->slots[slot].header().written, bytes);
}

void Slab::seal(std::uint32_t slot, const Version& version, std::uint64_t payload_bytes) noexcept {
  SlotHeader& header = impl_->slots[slot].header();
  store(header.run_started_us, version.run.started_us);
  store(header.run_tie, version.run.tie);
  store(header.number, version.number);
  store(header.payload_bytes, payload_bytes);
  store(header.written, payload_bytes);
  store(header.state, static_cast<std::uint64_t>(SlotState::kSealed));
}

}  // namespace weightcast::staging
