// Which replica serves, which one takes the next version in.
#pragma once

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <weightcast/log.hpp>
#include <weightcast/status.hpp>
#include <weightcast/subscriber.hpp>
#include <weightcast/torch/replica.hpp>
#include <weightcast/types.hpp>

namespace weightcast::detail {

/// Puts each version into a replica that nobody computes with.
///
/// A binding ties an image to its replica until it is retired; a retired one cannot be leased any
/// more, which settles the race between acquire() on a worker's thread and the reuse of its replica.
///
/// Thread safety: lease, release and tensor from any thread; the Applier's from the Subscriber's.
class ReplicaPool final : public Applier {
 public:
  ReplicaPool(std::string policy, NameFilter filter) : policy_(std::move(policy)), filter_(std::move(filter)) {}

  /// Before the pool is in use. @throw Error (kInvalid)
  void add(NamedTensorLister lister) {
    slots_.push_back(Slot{Replica(std::move(lister), &filter_), {}, {}, 0});
    const auto own = slots_.back().replica.wanted();
    if (Status s = filter_.check(own); !s) throw Error(s);
    if (slots_.back().replica.device() != device()) {
      throw Error(Status(Code::kInvalid, "the replicas are on different devices (" +
                                             torch_device(device()).str() + " and " +
                                             torch_device(slots_.back().replica.device()).str() +
                                             "): expected all on the one where versions shall lie"));
    }
    for (std::size_t i = 0; i + 1 < slots_.size(); ++i) {
      for (const auto& theirs : slots_[i].replica.wanted()) {
        for (const auto& ours : own) {
          if (!ours.tensor.is_alias_of(theirs.tensor)) continue;
          throw Error(Status(Code::kInvalid,
                             "two replicas share the tensor '" + ours.name +
                                 "': expected replicas of their own memory, so that one can take a version in while "
                                 "the other serves; build (or deepcopy) the module anew for each"));
        }
      }
    }
  }

  /// Where all replicas are: -1 for host memory, else CUDA's ordinal.
  int device() const noexcept { return slots_.empty() ? -1 : slots_.front().replica.device(); }

  /// Once all replicas are added: gives back the memory that they were built with, which would stay
  /// taken until each has had its first version.
  void ready() noexcept {
    for (Slot& slot : slots_) slot.replica.clear();
    if (device() >= 0) empty_device_cache(device());
#if defined(__GLIBC__)
    malloc_trim(0);  // once: what was freed lies scattered over the heap
#endif
  }

  bool can_begin() noexcept override {
    Retired retired;
    const std::lock_guard lock(mutex_);
    // On this thread the last switch is complete: who would lease a former image is told to retry.
    retire_idle(retired);
    return free_slot().has_value();
  }

  Status begin(const Version& version, const std::vector<TensorInfo>& tensors) override {
    {
      Retired retired;
      const std::lock_guard lock(mutex_);
      retire_idle(retired);
      target_ = free_slot();
    }
    if (!target_) return {Code::kUnavailable, "every replica that does not serve is still leased"};
    std::vector<const TensorInfo*> infos;
    infos.reserve(tensors.size());
    for (const auto& info : tensors) infos.push_back(&info);
    return slots_[*target_].replica.check(version, infos);
  }

  Status place(const std::shared_ptr<PolicyImage>& image) override {
    if (!target_) return {Code::kInternal, "place() without begin()"};
    Slot& slot = slots_[*target_];
    std::vector<const TensorInfo*> infos;
    infos.reserve(image->tensors().size());
    for (const auto& placed : image->tensors()) infos.push_back(&placed.info);
    if (Status s = slot.replica.check(image->version(), infos); !s) return s;
    auto keeper = std::make_shared<ImageKeeper>(image, device());
    try {
      slot.replica.install(keeper);
    } catch (...) {
      slot.replica.clear();
      throw;
    }
    auto binding = std::make_shared<Binding>(Binding{*target_, false});
    image->attachment = binding;
    const std::lock_guard lock(mutex_);
    slot.keeper = std::move(keeper);
    slot.binding = std::move(binding);
    return {};
  }

  void commit(const Version&) noexcept override {
    const std::lock_guard lock(mutex_);
    serving_ = target_;
    target_.reset();
    switched_ = false;
  }

  /// In place: lets go of what serves, so that its memory may be written to. No replica is leased
  /// then, because leases of the image are over; acquire() waits for the next commit.
  void suspend(const Version&) noexcept override {
    Retired retired;
    const std::lock_guard lock(mutex_);
    if (!serving_) return;
    retire(slots_[*serving_], retired);
    serving_.reset();
  }

  void rollback(const Version&) noexcept override {
    Retired retired;
    const std::lock_guard lock(mutex_);
    if (target_) retire(slots_[*target_], retired);
    target_.reset();
  }

  /// Leases the replica of an image. @return its index; none where the image was replaced meanwhile
  std::optional<std::size_t> lease(const PolicyImage& image) {
    const auto binding = std::static_pointer_cast<Binding>(image.attachment);
    Retired retired;
    const std::lock_guard lock(mutex_);
    if (!binding || binding->retired) return std::nullopt;
    ++slots_[binding->index].leases;
    if (serving_ == binding->index && !switched_) {
      switched_ = true;  // leases show the newest version: no former image is given out any more
      retire_idle(retired);
    }
    return binding->index;
  }

  void release(std::size_t index) noexcept {
    Retired retired;
    const std::lock_guard lock(mutex_);
    if (--slots_[index].leases == 0 && switched_) retire_idle(retired);
  }

  /// A tensor of the version in a leased replica; undefined where there is none of that name.
  at::Tensor tensor(std::size_t index, std::string_view name) {
    std::shared_ptr<ImageKeeper> keeper;
    {
      const std::lock_guard lock(mutex_);
      keeper = slots_[index].keeper;
    }
    const PlacedTensor* placed = keeper ? keeper->image->find(name) : nullptr;
    return placed == nullptr ? at::Tensor() : tensor_over(*placed, keeper);
  }

 private:
  struct Binding {
    std::size_t index;
    bool retired;
  };
  struct Slot {
    Replica replica;
    std::shared_ptr<Binding> binding;    // null while no image is installed
    std::shared_ptr<ImageKeeper> keeper;
    std::size_t leases = 0;
  };

  // Images whose replica has let go: freed (and logged, where tensors still hold them) after the
  // lock, which is why it is declared before the lock_guard.
  struct Retired {
    struct Held {
      std::shared_ptr<ImageKeeper> keeper;
      const ReplicaPool* pool;
      bool log;
    };
    std::vector<Held> held;
    ~Retired() {
      for (const Held& h : held) {
        const long owners = h.keeper.use_count() - 1;
        if (!h.log || owners <= 0) continue;
        try {
          log_line(LogLevel::kWarn, "event=tensors_outlive_lease policy=" + h.pool->policy_ + " version=" +
                                        to_string(h.keeper->image->version()) + " tensors=" +
                                        std::to_string(owners) +
                                        " hint=\"their memory stays taken until they go: clone() what must outlive "
                                        "its lease\"");
        } catch (const std::exception&) {
        }
      }
    }
  };

  std::optional<std::size_t> free_slot() const noexcept {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (serving_ != i && slots_[i].leases == 0) return i;
    }
    return std::nullopt;
  }

  void retire_idle(Retired& retired) noexcept {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (serving_ != i && target_ != i && slots_[i].leases == 0) retire(slots_[i], retired);
    }
  }

  void retire(Slot& slot, Retired& retired) noexcept {
    if (!slot.binding) return;
    slot.binding->retired = true;
    slot.binding.reset();
    slot.replica.clear();
    bool log = false;
    if (slot.keeper.use_count() > 1) {
      slot.keeper->outlives_lease = true;
      log = std::has_single_bit(++outlived_);  // 1st, 2nd, 4th, ... time
    }
    try {
      retired.held.push_back({slot.keeper, this, log});
    } catch (const std::exception&) {
      // Then the image is freed here, under the lock.
    }
    slot.keeper.reset();
  }

  const std::string policy_;
  const NameFilter filter_;
  std::vector<Slot> slots_;  // replicas change only while neither serving nor leased

  std::optional<std::size_t> target_;  // written by the Subscriber's thread alone

  std::mutex mutex_;
  std::optional<std::size_t> serving_;
  bool switched_ = false;  // a lease of serving_ has been given
  std::uint64_t outlived_ = 0;
};

}  // namespace weightcast::detail
