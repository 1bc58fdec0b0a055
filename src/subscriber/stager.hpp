// The thread that takes versions in: acquires segments, places and verifies, and switches.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <weightcast/subscriber.hpp>

#include "base/log.hpp"
#include "protocol/receiver.hpp"
#include "subscriber/image.hpp"
#include "transport/transport.hpp"

namespace weightcast::subscriber {

/// The end of an operation.
struct StageEvent {
  std::uint64_t op = 0;
  bool switched = false;  ///< else staged (or not, as `status` says)
  Status status;
  std::chrono::nanoseconds took{0};
};

struct StagerOptions {
  std::string job;
  Activation activation = Activation::kView;
  std::uint32_t copy_threads = 2;
  bool verify_view = false;
};

/// Thread safety: perform and stop from the I/O thread; the callbacks come from the stager's own.
class Stager {
 public:
  struct Callbacks {
    std::function<void(StageEvent)> ended;
    /// The image that leases get from now on; called after the applier's commit.
    std::function<void(std::shared_ptr<Image>)> serve;
  };

  Stager(StagerOptions options, std::shared_ptr<Applier> applier, std::shared_ptr<ImageRoom> room,
         std::shared_ptr<transport::Transport> transport, Callbacks callbacks);
  ~Stager();  ///< cancels, joins
  Stager(const Stager&) = delete;
  Stager& operator=(const Stager&) = delete;

  void start();
  void perform(protocol::ReceiverAction action);

 private:
  void run();
  void act(protocol::ReceiverAction& action);
  Status stage(const protocol::StartStage& what, std::shared_ptr<Image>& staged);
  Status wait_for_applier(std::uint64_t op);
  Status wait_for_room(std::uint64_t op);
  Status fill_view(const protocol::StartStage& what, Image& image);
  Status fill_copy(const protocol::StartStage& what, Image& image);
  Result<std::shared_ptr<transport::Segment>> acquire(const Version& version,
                                                      const plan::Share& share);
  Result<transport::Lane*> lane_to(std::uint32_t rank);
  void switch_to_staged();
  void forget_staged();
  void sweep_after_run_change();
  bool cancelled(std::uint64_t op) const noexcept { return stop_ || cancel_op_ >= op; }

  const StagerOptions options_;
  const std::shared_ptr<Applier> applier_;
  const std::shared_ptr<ImageRoom> room_;
  const std::shared_ptr<transport::Transport> transport_;
  const Callbacks callbacks_;

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<protocol::ReceiverAction> queue_;
  std::atomic<std::uint64_t> cancel_op_{0};  ///< this operation and all before it are given up
  std::atomic<bool> stop_{false};

  // The stager thread's own.
  std::map<std::uint32_t, std::unique_ptr<transport::Lane>> lanes_;  ///< by the source's rank
  std::uint64_t staged_op_ = 0;
  std::shared_ptr<Image> staged_;
  std::weak_ptr<Image> former_;  ///< of an earlier run; what it held is swept once it is gone
  Version serving_;
  std::weak_ptr<Image> serving_image_;
  bool sweep_pending_ = false;
  base::RateLimit room_warning_{std::chrono::seconds(30)};
  std::thread thread_;
};

}  // namespace weightcast::subscriber
