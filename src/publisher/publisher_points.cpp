// A publisher's points: decided, captured, sealed, fenced and flushed.
#include <algorithm>
#include <exception>
#include <utility>

#include "base/failpoint.hpp"
#include "base/trace.hpp"
#include "publisher/options.hpp"
#include "publisher/publisher_impl.hpp"
#include "publisher/report.hpp"

namespace weightcast {

namespace {

using protocol::PointDecision;
using publisher::call_lister;
using publisher::CapturePlan;
using publisher::same_tensors;

}  // namespace

namespace publisher {

Status call_lister(const Publisher::Lister& lister, TensorList& list) noexcept {
  try {
    return lister(list);
  } catch (const std::exception& error) {
    return Status(Code::kInvalid, std::string("listing the tensors failed: ") + error.what());
  } catch (...) {
    return Status(Code::kInvalid, "listing the tensors failed with an unknown exception");
  }
}

}  // namespace publisher

PointResult Publisher::Impl::publish(const Lister& lister, Deadline wait_until, bool insist) {
  base::TraceScope span("hook", "publish");
  PointDecision decision = loop_->with_source([&](protocol::Source& source, Clock::time_point now) {
    return source.at_point(now, true, insist);
  });
  if (decision.kind == PointDecision::Kind::kWait) {
    loop_->wait(wait_until, [](const protocol::Source& source) { return source.granted_now(); });
    decision = loop_->with_source([&](protocol::Source& source, Clock::time_point now) {
      return source.at_point(now, false);
    });
  }
  if (decision.kind != PointDecision::Kind::kCapture) {
    ++coalesced_;
    span.cancel();
    return {PointResult::Kind::kCoalesced, decision.point, {}};
  }
  span.args().version = decision.point;
  return capture(decision, lister);
}

PointResult Publisher::Impl::capture(const PointDecision& decision, const Lister& lister) {
  const auto at = Clock::now();
  TensorList list;
  if (Status status = call_lister(lister, list); !status) {
    return give_up(decision, status);
  }
  if (Status status = use_layout_of(list); !status) return give_up(decision, status);
  if (!capturer_->wait(at + options_.stall)) {
    return give_up(decision,
                   {Code::kDeadline, "the copies of an earlier point have not ended"});
  }
  stalled_ = false;
  base::failpoint("trainer.granted", decision.point);
  const std::uint64_t generation = memory_->slab().begin_write(decision.slot);
  publisher::CaptureRequest request = request_of(std::move(list), decision.slot);
  request.whole_policy_digest = decision.compare;
  request.version = decision.point;
  request.begun = [this, slot = decision.slot, generation, layout = layout_] {
    begun(slot, generation, *layout);
  };
  request.written = [this, slot = decision.slot](std::uint64_t bytes) {
    memory_->slab().set_written(slot, bytes);
  };
  Status status = capturer_->start(
      std::move(request),
      [this, decision, generation, layout = layout_, at](publisher::CaptureResult result) {
        captured(decision, generation, layout, at, std::move(result));
      });
  if (!status) {
    // A lost device has been said once.
    return give_up(decision, status, status.code() != Code::kUnavailable);
  }
  base::failpoint("trainer.copying", decision.point);
  ++captured_;
  last_hook_ns_ = (Clock::now() - at).count();
  return {PointResult::Kind::kCaptured, decision.point, {}};
}

publisher::CaptureRequest Publisher::Impl::request_of(TensorList list, std::uint32_t slot) {
  publisher::CaptureRequest request;
  request.list = std::move(list);
  request.published = layout_->published;
  request.layout = layout_->share;
  request.payload = memory_->payload(slot);
  return request;
}

PointResult Publisher::Impl::give_up(const PointDecision& decision, const Status& status,
                                     bool is_news) {
  const std::string& why = status.message();
  voids_.failed.add(status.code());
  loop_->with_source([&](protocol::Source& source, Clock::time_point now) {
    source.capture_failed(now, why);
  });
  if (is_news && void_warning_.allow(Clock::now())) {
    base::log(LogLevel::kWarn, "point_void",
              {{"policy", options_.policy}, {"point", decision.point}, {"why", why}});
  }
  return {PointResult::Kind::kVoid, decision.point, why};
}

Status Publisher::Impl::use_layout_of(const TensorList& list) {
  if (same_tensors(*layout_, list)) return Status::ok();
  CapturePlan layout = publisher::make_capture_plan(list, options_);
  if (Status status = plan::check_boxes(layout.tensors); !status) return status;
  if (layout.share.payload_bytes > options_.slot_bytes) {
    return Status(Code::kExhausted,
                  "the policy has grown: this rank's share takes " +
                      std::to_string(layout.share.payload_bytes) + " bytes now, its slots hold " +
                      std::to_string(options_.slot_bytes) +
                      "; memory is taken at start-up only: set slot_bytes to what it will need");
  }
  layout_ = std::make_shared<const CapturePlan>(std::move(layout));
  return Status::ok();
}

plan::Share Publisher::Impl::share_of(std::uint32_t slot, std::uint64_t generation,
                                      const CapturePlan& layout,
                                      std::span<const base::Digest> digests) const {
  plan::Share share;
  share.rank = options_.rank;
  share.generation = generation;
  share.host = host_;
  share.endpoint = data_server_.endpoint();
  if (nccl_) share.nccl_device = nccl_->identity();
  memory_->place(slot, share);
  publisher::fill_entries(layout, digests, share);
  return share;
}

/// Lets engines read behind the writer; their digests come with the seal.
void Publisher::Impl::begun(std::uint32_t slot, std::uint64_t generation,
                            const CapturePlan& layout) {
  plan::Share share = share_of(slot, generation, layout, {});
  loop_->with_source([&](protocol::Source& source, Clock::time_point) {
    source.capture_begun(std::move(share));
  });
}

void Publisher::Impl::captured(const PointDecision& decision, std::uint64_t generation,
                               const std::shared_ptr<const CapturePlan>& layout, Clock::time_point at,
                               publisher::CaptureResult result) {
  if (!result.status) {
    const bool is_stall = stalled_ && result.status.code() == Code::kCancelled;
    if (is_stall) {
      ++voids_.stall;
    } else {
      voids_.failed.add(result.status.code());
    }
    const std::string why = is_stall ? "stall: the next step came before the copies had ended"
                                     : result.status.message();
    loop_->with_source([&](protocol::Source& source, Clock::time_point now) {
      source.capture_failed(now, why);
    });
    return;
  }
  const base::TraceScope span("seal", "seal",
                              {.version = decision.point,
                               .bytes = static_cast<std::int64_t>(layout->share.payload_bytes),
                               .rank = options_.rank});
  last_capture_ns_ = result.busy.count();
  memory_->slab().seal(decision.slot, Version{decision.run, decision.point}, layout->share.payload_bytes);
  if (nccl_) {
    nccl_->sealed({.object = memory_->slab().object_name(decision.slot),
                   .version = {decision.run, decision.point},
                   .generation = generation,
                   .payload_bytes = layout->share.payload_bytes},
                  memory_->payload(decision.slot));
  }
  protocol::Sealed sealed;
  sealed.layout_fingerprint = layout->fingerprint;
  sealed.share = share_of(decision.slot, generation, *layout, result.digests);
  sealed.has_policy_digest = decision.compare;
  sealed.policy_digest = result.policy_digest;
  sealed.captured_at_ns = at.time_since_epoch().count();
  loop_->with_source([&](protocol::Source& source, Clock::time_point now) {
    source.capture_sealed(now, std::move(sealed));
  });
}

void Publisher::Impl::skip(const std::string& why) {
  ++voids_.skipped;
  loop_->with_source([&](protocol::Source& source, Clock::time_point now) {
    return source.skip_point(now, why);
  });
}

Status Publisher::Impl::fence(Deadline deadline) {
  const bool useless = loop_->with_source(
      [](protocol::Source& source, Clock::time_point) { return source.wants_cancel(); });
  const base::TraceScope span("fence", useless ? "give up" : "wait for copies");
  const auto began = Clock::now();
  const bool is_free = !useless && capturer_->fence(deadline);
  last_fence_ns_ = (Clock::now() - began).count();
  if (is_free) return Status::ok();
  stalled_ = !useless;
  // The copies may have ended just now: then the point stands, and the tensors are free.
  const bool given_up = capturer_->cancel();
  if (useless || !given_up) return Status::ok();
  const auto stall_ms = std::chrono::duration_cast<std::chrono::milliseconds>(options_.stall);
  const std::string what =
      "the copies of the last publish point outlasted stall = " + std::to_string(stall_ms.count()) +
      " ms; that point was given up; raise stall, raise copy_threads or publish less often";
  if (stall_warning_.allow(Clock::now())) {
    base::log(LogLevel::kWarn, "stall", {{"policy", options_.policy}, {"what", what}});
  }
  return Status(Code::kDeadline, what);
}

Result<Verdict> Publisher::Impl::flush(Deadline deadline, const Lister& lister) {
  const auto overdue = [&](const char* doing) {
    const std::string blocked = loop_->with_source(
        [](protocol::Source& source, Clock::time_point) { return source.blocked(); });
    return Status(Code::kDeadline, std::string("flush: the deadline passed while ") + doing +
                                       (blocked.empty() ? "" : " (" + blocked + ")"));
  };
  std::string void_why;  // of the last point that came to nothing here
  for (;;) {
    if (!capturer_->wait(deadline)) return overdue("the copies ran");
    bool asked = false;
    Run run;
    loop_->with_source([&](protocol::Source& source, Clock::time_point now) {
      run = source.run();
      asked = source.last_captured() != 0 && source.last_captured() + 1 == source.next_point() &&
              source.request_flush(now);
    });
    if (!asked) {
      if (Clock::now() >= deadline) {
        return void_why.empty() ? overdue("waiting for a grant")
                                : Status(Code::kDeadline, "flush: " + void_why);
      }
      const PointResult point = publish(lister, deadline, true);
      if (point.kind != PointResult::Kind::kCoalesced) void_why = point.why;
      continue;
    }
    const bool answered = loop_->wait(
        deadline, [](const protocol::Source& source) { return source.verdict().has_value(); });
    protocol::Verdict verdict;
    loop_->with_source([&](protocol::Source& source, Clock::time_point) {
      if (answered) verdict = *source.verdict();
      source.end_flush();
    });
    if (!answered) return overdue("receivers had not all applied the version");
    if (verdict.number == 0) {
      // Void on another rank: every rank publishes once more.
      loop_->with_source(
          [](protocol::Source& source, Clock::time_point) { source.forget_captured(); });
      continue;
    }
    return judge(verdict, run);
  }
}

Result<Verdict> Publisher::Impl::judge(const protocol::Verdict& verdict, const Run& run) const {
  if (!verdict.lost.empty()) {
    std::string names;
    for (const std::string& name : verdict.lost) names += (names.empty() ? "" : ", ") + name;
    return Status(Code::kUnavailable,
                  "version " + std::to_string(verdict.number) + " was applied by " +
                      std::to_string(verdict.applied.size()) + " receivers, but lost on the way: " +
                      names + "; see this job's log for the reason of each");
  }
  if (verdict.applied.size() < options_.min_receivers) {
    return Status(Code::kUnavailable, "version " + std::to_string(verdict.number) +
                                          " was applied by " +
                                          std::to_string(verdict.applied.size()) +
                                          " receivers, fewer than min_receivers = " +
                                          std::to_string(options_.min_receivers));
  }
  return Verdict{Version{run, verdict.number}, verdict.applied, verdict.lost};
}

/// From the I/O thread.
protocol::SourceReport Publisher::Impl::report() const {
  protocol::SourceReport report = publisher::lasting_report(options_, memory_->is_on_device(),
                                                            data_server_.endpoint());
  report.captured = captured_;
  report.coalesced = coalesced_;
  report.voided = voids_.total();
  report.sent_bytes = data_server_.sent_bytes();
  report.last_capture_ns = last_capture_ns_;
  report.last_hook_ns = last_hook_ns_;
  report.last_fence_ns = last_fence_ns_;
  return report;
}

}  // namespace weightcast
