#include "subscriber/in_place.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "base/trace.hpp"

namespace weightcast::subscriber {
namespace {

constexpr int kTries = 3;
constexpr auto kBetweenTries = std::chrono::milliseconds(5);
/// A condition that nobody tells of is looked at again this often.
constexpr auto kDrainLook = std::chrono::milliseconds(100);
/// Tensors that outlive their leases only for as long as somebody takes to let go of them.
constexpr auto kAfterglow = std::chrono::milliseconds(200);

Status in_place_given_up() { return Status(Code::kCancelled, "the switch was given up"); }

bool same_place(const plan::ImageTensor& x, const plan::ImageTensor& y) {
  return x.offset == y.offset && x.info == y.info;
}

}  // namespace

InPlace::InPlace(Options options, std::shared_ptr<Applier> applier, std::shared_ptr<ImageRoom> room,
                 std::shared_ptr<LeaseBook> leases, StagerHost& host, Fetcher fetch,
                 std::function<bool(std::uint64_t)> cancelled)
    : options_(options),
      applier_(std::move(applier)),
      room_(std::move(room)),
      leases_(std::move(leases)),
      host_(host),
      fetch_(std::move(fetch)),
      cancelled_(std::move(cancelled)) {}

Result<std::shared_ptr<Image>> InPlace::take_in(Incoming& incoming) {
  begun_ = true;
  Result<std::shared_ptr<Image>> image = in_place_given_up();
  Status status = drain(incoming);
  left_alone_ = !status;
  if (status) status = bring(incoming);
  if (status) {
    image = place(incoming);
    status = image.status();
  }
  if (!status && applier_ && begun_) applier_->rollback(incoming.version);
  if (!status) return status;
  return image;
}

// ---- draining -------------------------------------------------------------------------------

bool InPlace::leases_end_by(Deadline until, std::uint64_t op) {
  while (leases_->count() > 0) {
    const auto now = Clock::now();
    if (now >= until || cancelled_(op)) return false;
    room_->wait(std::min<Deadline>(until, now + kDrainLook));
  }
  return true;
}

Status InPlace::drain(const Incoming& incoming) {
  const Version& next = incoming.version;
  const auto cancelled = [&] { return cancelled_(incoming.op); };
  const std::string why = "version " + std::to_string(next.number) +
                          " comes in place as soon as all leases on the former one have ended";
  while (!cancelled()) {
    host_.pause(why);
    const bool ended = leases_end_by(Clock::now() + options_.lease_deadline, incoming.op);
    if (ended && live_) {
      const Status idle = live_->wait_for_readers(cancelled);
      if (!idle && idle.code() != Code::kCancelled) {
        host_.resume(nullptr);
        return idle;
      }
    }
    if (ended && vacated(incoming)) {
      overdue_ = false;
      return Status::ok();
    }
    if (cancelled()) break;
    // Others shall not starve: they go on with what is served until those that held it up are gone.
    const auto gave_up = Clock::now();
    if (!ended) host_.resume(nullptr);
    overdue_ = true;
    if (held_warning_.allow(gave_up)) {
      base::log(LogLevel::kWarn, "switch_waits",
                {{"version", to_string(next)},
                 {"what", ended ? "tensors outlive their leases: clone() what must outlive its lease"
                                : "leases are held past lease_deadline: end them sooner"}});
    }
    while (!cancelled() && (leases_->held_since(gave_up) ||
                            (ended && Clock::now() < gave_up + options_.next_try))) {
      room_->wait(Clock::now() + kDrainLook);
    }
  }
  overdue_ = false;
  host_.resume(nullptr);
  return in_place_given_up();
}

bool InPlace::vacated(const Incoming& incoming) {
  std::shared_ptr<Image> former = host_.withdraw(
      "version " + std::to_string(incoming.version.number) + " is coming in place");
  if (former) {
    if (applier_) applier_->suspend(former->version());
    former_ = former;
    former.reset();
  }
  const Deadline until = Clock::now() + kAfterglow;
  while (!former_.expired() && Clock::now() < until && !cancelled_(incoming.op)) {
    room_->wait(std::min<Deadline>(until, Clock::now() + kBetweenTries));
  }
  former = former_.lock();
  if (!former) return true;
  reinstate(former, incoming.version);
  return false;
}

void InPlace::reinstate(const std::shared_ptr<Image>& former, const Version& next) {
  if (applier_) {
    if (begun_) applier_->rollback(next);
    begun_ = false;
    std::vector<TensorInfo> infos;
    for (const PlacedTensor& tensor : former->tensors()) infos.push_back(tensor.info);
    former->attachment.reset();
    Status status =
        guarded("begin", [&] { return applier_->begin(former->version(), infos); });
    if (status) status = guarded("place", [&] { return applier_->place(former); });
    if (!status) {
      applier_->rollback(former->version());
      base::log(LogLevel::kWarn, "not_reinstated",
                {{"version", to_string(former->version())}, {"why", status.to_string()}});
      host_.withdraw("tensors of version " + std::to_string(former->version().number) +
                     " outlive their leases and keep the next one out: " + status.to_string());
      return;
    }
    applier_->commit(former->version());
  }
  host_.resume(former);
}

// ---- the bytes ------------------------------------------------------------------------------

Status InPlace::bring(Incoming& incoming) {
  return incoming.activation == Activation::kStaged ? copy_staged(incoming)
                                                    : fetch_in_place(incoming);
}

Status InPlace::copy_staged(Incoming& incoming) {
  const plan::ImagePlan& plan = incoming.plan;
  const bool same = live_ && std::equal(plan.tensors.begin(), plan.tensors.end(),
                                        live_tensors_.begin(), live_tensors_.end(), same_place);
  if (!same) {
    // The first version, or one of other tensors, which move in any case: it stays where it is.
    live_ = std::move(incoming.staged);
    live_tensors_ = plan.tensors;
    return Status::ok();
  }
  const base::TraceScope span("place", "copy in place",
                              {.version = incoming.version.number,
                               .bytes = static_cast<std::int64_t>(plan.image_bytes)});
  Status status;
  for (int i = 0; i < kTries; ++i) {
    status = room_->memory().copy({incoming.version, incoming.manifest, plan,
                                   live_->bytes().first(plan.image_bytes),
                                   incoming.staged->bytes().first(plan.image_bytes),
                                   options_.copy_threads});
    if (status) break;
    base::log(LogLevel::kWarn, "copy_in_place_failed",
              {{"version", to_string(incoming.version)},
               {"why", status.to_string()},
               {"next", "copied again"}});
  }
  if (status) incoming.staged.reset();
  return status;
}

Status InPlace::fetch_in_place(Incoming& incoming) {
  if (!has_room(incoming.plan.image_bytes)) {
    live_.reset();  // becomes spare, and is freed or found to fit
    auto buffer =
        room_->buffer(incoming.plan.image_bytes, [&] { return cancelled_(incoming.op); });
    if (!buffer) return buffer.status();
    live_ = std::move(*buffer);
  }
  room_->drop_spare();
  live_tensors_ = incoming.plan.tensors;
  return fetch_(incoming, live_->bytes().first(incoming.plan.image_bytes));
}

Result<std::shared_ptr<Image>> InPlace::place(Incoming& incoming) {
  while (!room_->try_enter()) {
    if (cancelled_(incoming.op)) return in_place_given_up();
    room_->wait(Clock::now() + kDrainLook);
  }
  auto image = std::make_shared<Image>(room_, incoming.version);
  image->fill(incoming.plan, live_);
  Status status;
  for (int i = 0; applier_ && i < kTries; ++i) {
    if (!begun_) {
      status = guarded("begin", [&] { return applier_->begin(incoming.version, incoming.infos); });
    }
    if (status) status = guarded("place", [&] { return applier_->place(image); });
    begun_ = status.is_ok();
    if (status) break;
    image->attachment.reset();
    applier_->rollback(incoming.version);
    if (cancelled_(incoming.op) || i + 1 == kTries) break;
    base::log(LogLevel::kWarn, "place_in_place_failed",
              {{"version", to_string(incoming.version)},
               {"why", status.to_string()},
               {"next", "placed again"}});
    room_->wait(Clock::now() + kBetweenTries);
  }
  if (!status) return status;
  return image;
}

}  // namespace weightcast::subscriber
