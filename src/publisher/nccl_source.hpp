// A rank's end of NCCL: sends sealed slots to the engines that ask for them.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "driver/cuda.hpp"
#include "driver/nccl.hpp"
#include "transport/nccl/bucket_flow.hpp"
#include "transport/nccl/sender.hpp"
#include "transport/nccl/session_host.hpp"
#include "transport/shm/slot_cache.hpp"

namespace weightcast::publisher {

struct NcclSourceOptions {
  int device = 0;
  std::uint64_t slot_bytes = 0;  ///< the largest payload that there will be
  std::shared_ptr<const void> holds{};  ///< the slots' memory: kept for good where NCCL never ends
  transport::SessionOptions session{};
  transport::NcclOptions gpu{};  ///< bucket_bytes follows slot_bytes
};

/// A thread of its own has all that is NCCL's and CUDA's. The trainer's threads and the server's meet it
/// at a mutex that is held for moments, never for a call of those two. A slot that is sent from is locked
/// as by any reader, from the first ask until nobody asks any more and no kernel can read it; so an engine
/// that stops costs the trainer a slot for some seconds, and no time.
/// Thread safety: sealed() and ask() from any thread.
class NcclSource {
 public:
  /// Takes the buckets' memory, and starts the thread. @return kExhausted, what CUDA says
  static Result<std::unique_ptr<NcclSource>> start(std::shared_ptr<driver::Nccl> nccl,
                                                   std::shared_ptr<driver::Cuda> cuda,
                                                   NcclSourceOptions options);
  /// Aborts what is under way, and waits for the ends of all: up to options.gpu.leave and gpu.abort.
  ~NcclSource();
  NcclSource(const NcclSource&) = delete;
  NcclSource& operator=(const NcclSource&) = delete;

  /// For plan::Share::nccl_device.
  const std::string& identity() const noexcept { return identity_; }

  /// A version can be asked for from here on, until its slot is written to again.
  /// @param address object, version, generation and payload_bytes
  void sealed(const transport::SegmentAddress& address, std::span<const std::byte> payload);

  /// For TcpServerOptions::sessions.
  transport::SessionAnswer ask(const transport::SessionAsk& ask);

 private:
  using Action = transport::SessionHost::Action;
  struct Slot {
    transport::SegmentAddress address;
    std::span<const std::byte> payload;
  };
  struct Running {  // a session; the thread's own
    Action start;
    Slot slot;
    std::shared_ptr<transport::SlotHold> hold;
    std::string group;
    std::unique_ptr<transport::NcclSender> sender;
    std::unique_ptr<transport::BucketFlow> flow;
    bool has_ended = false;
    Status status;
  };

  NcclSource(std::shared_ptr<driver::Nccl> nccl, NcclSourceOptions options, std::string identity);
  transport::SessionAnswer refuse(Status why) const;
  const Slot* find(const transport::SessionAsk& ask) const;
  void run();
  void keep_memory();
  bool turn();
  void act(const Action& action);
  void forget_lost_communicators();
  void join(Running& running, Clock::time_point now);
  void begin(Running& running, Clock::time_point now);
  void advance(Clock::time_point now);
  void fail(Running& running, Status why, Clock::time_point now);

  const std::shared_ptr<driver::Nccl> nccl_;
  const NcclSourceOptions options_;
  const std::string identity_;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  bool is_woken_ = false;
  bool is_lost_ = false;  ///< NCCL is, for good
  std::map<std::string, Slot> sealed_;  ///< by object: as many as there are slots
  std::optional<Slot> offered_;
  std::shared_ptr<transport::SlotHold> hold_;  ///< of what is offered, while somebody asks
  std::uint32_t served_ = 0;                   ///< engines that have what is offered
  std::uint32_t expected_ = 0;                 ///< as many had the one before
  transport::SlotCache locks_{{staging::SlotMapping::kNone, {}}};
  transport::SessionHost host_;

  // The thread's own.
  std::unique_ptr<transport::NcclGpu> gpu_;
  std::optional<Running> running_;
  std::thread thread_;
};

}  // namespace weightcast::publisher
