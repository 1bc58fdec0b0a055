// The thread that takes versions in: acquires segments, places and verifies, and switches.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include <weightcast/subscriber.hpp>

#include "base/log.hpp"
#include "protocol/receiver.hpp"
#include "subscriber/activation.hpp"
#include "subscriber/ahead.hpp"
#include "subscriber/image.hpp"
#include "subscriber/in_place.hpp"
#include "subscriber/incoming.hpp"
#include "subscriber/leases.hpp"
#include "subscriber/sources.hpp"
#include "subscriber/stager_host.hpp"

namespace weightcast::subscriber {

/// Thread safety: start, perform, switch_overdue and the destructor from the I/O thread; the host is
/// called from the stager's own.
class Stager {
 public:
  /// @param options complete; of them those that say how versions are taken in
  Stager(const SubscriberOptions& options, std::shared_ptr<Applier> applier,
         std::shared_ptr<ImageRoom> room, std::shared_ptr<LeaseBook> leases,
         TransportSet transports, StagerHost& host);
  ~Stager();  ///< cancels, joins
  Stager(const Stager&) = delete;
  Stager& operator=(const Stager&) = delete;

  void start();
  void perform(protocol::ReceiverAction action);
  /// Whether leases keep a switch in place waiting for longer than lease_deadline.
  bool switch_overdue() const noexcept { return in_place_.overdue(); }
  /// Bytes that the present operation has placed.
  std::uint64_t progress() const noexcept { return progress_; }
  /// Bytes that all operations have placed.
  std::uint64_t received() const noexcept { return received_ + progress_; }

 private:
  void run();
  void act(protocol::ReceiverAction& action);
  void start_stage(protocol::StartStage& start);
  void switch_to_staged();
  /// Reads a version behind its writers into the image that nobody uses, where there is one on a
  /// device, until it is whole or anything else is to be done.
  void read_ahead(protocol::ReadAhead& order);
  bool has_orders();
  void report_failed_switch(std::uint64_t op, const Version& version, const Status& status);
  void forget_staged();
  void sweep_after_run_change();

  Status stage(const std::string& relay, Incoming& incoming);
  Status bring(Incoming& incoming);
  Status wait_for_applier(std::uint64_t op);
  Status wait_for_room(const Incoming& incoming);
  Status settle(const std::string& relay, Incoming& incoming);
  Status plan_for(Incoming& incoming);
  std::string why_no_view(const Incoming& incoming) const;
  std::uint32_t network_lanes(const Incoming& incoming) const;
  Status allocate(const ActivationChoice& choice, std::uint64_t image_bytes);
  void fall_from(Activation activation, const Status& why);
  void take(const ActivationChoice& choice, const Incoming& incoming);

  Status open_shares(Incoming& incoming);
  Status fill_view(Incoming& incoming);
  Result<std::shared_ptr<ImageBuffer>> buffer_for(Incoming& incoming);
  Status fill_copy(Incoming& incoming);
  Status stage_copy(Incoming& incoming);
  Status fetch(Incoming& incoming, std::span<std::byte> image);
  Status plan_without_nccl(const std::string& relay, Incoming& incoming);
  Status fetch_by_nccl(Incoming& incoming, const Fetch& what, std::vector<char>& there);
  void say_sources(const Incoming& incoming, const std::string& relay);
  Status fall_from_nccl(Incoming& incoming, const Status& why, const std::vector<char>& there);
  bool cancelled(std::uint64_t op) const noexcept { return stop_ || cancel_op_ >= op; }

  const SubscriberOptions options_;
  const std::shared_ptr<Applier> applier_;
  const bool fixed_addresses_;
  const std::shared_ptr<ImageRoom> room_;
  StagerHost& host_;

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<protocol::ReceiverAction> queue_;
  std::atomic<std::uint64_t> cancel_op_{0};  ///< this operation and all before it are given up
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> progress_{0};
  std::atomic<std::uint64_t> received_{0};  ///< by the operations before

  // The stager thread's own.
  Sources sources_;
  std::optional<Incoming> staged_;
  std::weak_ptr<Image> former_;  ///< of an earlier run; what it held is swept once it is gone
  Version serving_;
  std::weak_ptr<Image> serving_image_;
  Version dirty_;  ///< what failed to come in place; there is nothing to serve until one as new has
  bool sweep_pending_ = false;
  std::optional<Ahead> ahead_;
  base::RateLimit room_warning_{std::chrono::seconds(30)};

  std::optional<Activation> activation_;  ///< in use, once the first version has come
  std::uint64_t image_bytes_ = 0;         ///< that it was chosen for
  bool joined_in_place_;                  ///< the coordinator knows that bytes come after the commit
  Activation least_ = Activation::kView;  ///< freer ones found no memory
  std::string why_least_;
  std::uint64_t bucket_bytes_ = 0;        ///< of the incoming version's plan
  double bytes_per_second_ = 0;           ///< of the last version that came over a network

  InPlace in_place_;
  std::thread thread_;
};

}  // namespace weightcast::subscriber
