#include <weightcast/publisher.hpp>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <span>
#include <utility>

#include "base/config.hpp"
#include "base/failpoint.hpp"
#include "base/host.hpp"
#include "base/log.hpp"
#include "base/trace.hpp"
#include "base/trace_use.hpp"
#include "metrics/use.hpp"
#include "publisher/capture_plan.hpp"
#include "publisher/capturer.hpp"
#include "publisher/control_loop.hpp"
#include "publisher/data_server.hpp"
#include "publisher/nccl_choice.hpp"
#include "publisher/options.hpp"
#include "publisher/publisher_metrics.hpp"
#include "publisher/report.hpp"
#include "publisher/slot_memory.hpp"
#include "staging/object_name.hpp"
#include "staging/slab.hpp"
#include "staging/sweep.hpp"
#include "stream/rendezvous.hpp"

namespace weightcast {
namespace {

using protocol::PointDecision;
using publisher::CapturePlan;
using publisher::make_capture_plan;
using publisher::same_tensors;

class SlabLocks final : public protocol::SlotLocks {
 public:
  explicit SlabLocks(staging::Slab& slab) : slab_(slab) {}
  bool try_lock(std::uint32_t slot) override { return slab_.try_lock(slot); }
  void unlock(std::uint32_t slot) override { slab_.unlock(slot); }

 private:
  staging::Slab& slab_;
};

/// Lists the tensors, whatever the user's code throws.
Status call_lister(const Publisher::Lister& lister, TensorList& list) noexcept {
  try {
    return lister(list);
  } catch (const std::exception& error) {
    return Status(Code::kInvalid, std::string("listing the tensors failed: ") + error.what());
  } catch (...) {
    return Status(Code::kInvalid, "listing the tensors failed with an unknown exception");
  }
}

}  // namespace

class Publisher::Impl {
 public:
  Impl(PublisherOptions options, base::TraceUse trace,
       std::unique_ptr<publisher::SlotMemory> memory, CapturePlan layout)
      : options_(std::move(options)),
        trace_(std::move(trace)),
        memory_(std::move(memory)),
        locks_(memory_->slab()),
        layout_(std::make_shared<const CapturePlan>(std::move(layout))) {}

  ~Impl() {
    metrics_ = {};  // nobody looks after this
    capturer_.reset();  // no capture ends after this
    loop_.reset();
    data_server_ = {};  // it holds slots of the slab
    nccl_.reset();      // so does this, which the server asks
  }

  static Result<std::unique_ptr<Impl>> open(PublisherOptions options, const Lister& lister);

  PointResult publish(const Lister& lister, Deadline wait_until, bool insist);
  void skip(const std::string& why);
  Status fence(Deadline deadline);
  Result<Verdict> flush(Deadline deadline, const Lister& lister);
  PublisherStatus status() const;
  const PublisherOptions& options() const noexcept { return options_; }

 private:
  PointResult capture(const PointDecision& decision, const Lister& lister);
  PointResult give_up(const PointDecision& decision, const Status& status, bool is_news = true);
  publisher::CaptureRequest request_of(TensorList list, std::uint32_t slot);
  plan::Share share_of(std::uint32_t slot, std::uint64_t generation, const CapturePlan& layout,
                       std::span<const base::Digest> digests) const;
  void begun(std::uint32_t slot, std::uint64_t generation, const CapturePlan& layout);
  void captured(const PointDecision& decision, std::uint64_t generation,
                const std::shared_ptr<const CapturePlan>& layout, Clock::time_point at,
                publisher::CaptureResult result);
  Status use_layout_of(const TensorList& list);
  protocol::SourceReport report() const;
  Result<Verdict> judge(const protocol::Verdict& verdict, const Run& run) const;

  const PublisherOptions options_;
  const base::TraceUse trace_;  ///< ends after all that has spans
  std::unique_ptr<publisher::SlotMemory> memory_;
  SlabLocks locks_;
  std::unique_ptr<publisher::NcclSource> nccl_;  ///< may be null
  publisher::DataServer data_server_;
  const std::string host_ = base::host_identity();
  std::unique_ptr<publisher::ControlLoop> loop_;
  std::unique_ptr<publisher::Capturer> capturer_;
  std::shared_ptr<const CapturePlan> layout_;  ///< the trainer's thread alone
  base::RateLimit stall_warning_{std::chrono::seconds(10)};
  base::RateLimit void_warning_{std::chrono::seconds(10)};

  std::atomic<bool> stalled_{false};
  std::atomic<std::uint64_t> captured_{0};
  std::atomic<std::uint64_t> coalesced_{0};
  publisher::VoidCounts voids_;
  std::atomic<std::int64_t> last_capture_ns_{0};
  std::atomic<std::int64_t> last_hook_ns_{0};
  std::atomic<std::int64_t> last_fence_ns_{0};
  metrics::Use metrics_;
};

Result<std::unique_ptr<Publisher::Impl>> Publisher::Impl::open(PublisherOptions options,
                                                               const Lister& lister) {
  if (Status status = publisher::check_options(options); !status) return status;
  const std::string rank = std::to_string(options.rank);
  auto trace = base::TraceUse::open(options.trace, "rank-" + rank, "trainer rank " + rank);
  if (!trace) return trace.status();
  auto shown = metrics::Use::open(options.metrics, "rank-" + rank);
  if (!shown) return shown.status();
  TensorList list;
  if (Status status = call_lister(lister, list); !status) return status;
  CapturePlan layout = publisher::make_capture_plan(list, options);
  if (Status status = plan::check_boxes(layout.tensors); !status) return status;
  if (options.slot_bytes == 0) {
    // Room for small changes of the model: all memory is taken now, none later.
    options.slot_bytes = layout.share.payload_bytes + layout.share.payload_bytes / 8 + (1u << 20);
  }
  if (layout.share.payload_bytes > options.slot_bytes) {
    return Status(Code::kInvalid,
                  "option slot_bytes = " + std::to_string(options.slot_bytes) +
                      ": this rank's share of the policy takes " +
                      std::to_string(layout.share.payload_bytes) + " bytes; raise it or leave it 0");
  }
  auto place = stream::meeting_place(options.directory,
                                     base::environment("XDG_RUNTIME_DIR").value_or(""), options.job,
                                     options.policy);
  if (!place) return place.status();

  staging::sweep({});  // of every job of this user: a job that has ended for good has no next start
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  const auto incarnation = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(since_epoch).count());
  const staging::ObjectOwner owner{options.job, options.policy,
                                   Run{incarnation, static_cast<std::uint32_t>(::getpid())},
                                   options.rank, incarnation};
  auto memory = publisher::SlotMemory::open(options, owner, list);
  if (!memory) return memory.status();

  auto impl = std::make_unique<Impl>(std::move(options), std::move(*trace), std::move(*memory),
                                     std::move(layout));
  auto capturer = impl->memory_->make_capturer(impl->options_, impl->request_of(std::move(list), 0));
  if (!capturer) return capturer.status();
  impl->capturer_ = std::move(*capturer);
  auto nccl = publisher::open_nccl_source(impl->options_, *impl->memory_);
  if (!nccl) return nccl.status();
  impl->nccl_ = std::move(*nccl);
  if (!impl->memory_->is_on_device() || impl->nccl_) {
    publisher::DataServer::Sessions sessions;
    if (impl->nccl_) {
      sessions = [source = impl->nccl_.get()](const auto& ask) { return source->ask(ask); };
    }
    auto data_server = publisher::DataServer::start(
        impl->options_, *place, staging::owner_prefix(owner) + ".", std::move(sessions));
    if (!data_server) return data_server.status();
    impl->data_server_ = std::move(*data_server);
  }
  // Ends with the loop, which goes before anything that the report looks at.
  auto loop = publisher::ControlLoop::start(impl->options_, *place, incarnation, impl->locks_,
                                            [raw = impl.get()] { return raw->report(); });
  if (!loop) return loop.status();
  impl->loop_ = std::move(*loop);
  impl->metrics_ = std::move(*shown);
  impl->metrics_.watch([its = impl.get()](metrics::Samples& samples) {
    publisher::add_samples(its->options_, its->status(), its->voids_, *its->loop_, samples);
  });
  return impl;
}

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

PublisherStatus Publisher::Impl::status() const {
  PublisherStatus status;
  loop_->with_source([&](protocol::Source& source, Clock::time_point) {
    status.run = source.run();
    status.next_point = source.next_point();
    status.published = {source.run(), source.published()};
    status.committed = {source.run(), source.committed()};
    status.blocked = source.blocked();
    status.connected = source.joined();
    status.refused_messages = source.dropped();
  });
  status.captured = captured_;
  status.coalesced = coalesced_;
  status.voided = voids_.total();
  status.last_capture = std::chrono::nanoseconds(last_capture_ns_);
  status.last_hook = std::chrono::nanoseconds(last_hook_ns_);
  status.last_fence = std::chrono::nanoseconds(last_fence_ns_);
  const publisher::Capturer::StreamWaits waits = capturer_->stream_waits();
  status.stream_waits = waits.count;
  status.last_stream_wait = waits.last;
  status.refused_messages += loop_->refused_messages();
  const publisher::CoordinatorView view = loop_->view();
  status.refused_messages +=
      view.counters.dropped + view.refused_connections + data_server_.refused();
  status.sent_bytes = data_server_.sent_bytes();
  status.listening = loop_->listening();
  status.drifted = view.counters.drifted;
  status.last_apply = std::chrono::nanoseconds(view.counters.last_apply_ns);
  for (const auto& receiver : view.receivers) {
    status.receivers.push_back({receiver.name, receiver.serving, receiver.state});
  }
  return status;
}

// ---- the public face ------------------------------------------------------------------------

Publisher::Publisher(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Publisher::Publisher(Publisher&&) noexcept = default;
Publisher& Publisher::operator=(Publisher&&) noexcept = default;
Publisher::~Publisher() = default;

Result<Publisher> Publisher::open(PublisherOptions options, const Lister& lister) {
  try {
    auto impl = Impl::open(std::move(options), lister);
    if (!impl) return impl.status();
    return Publisher(std::move(*impl));
  } catch (const std::exception& error) {
    return Status(Code::kExhausted, std::string("cannot open the publisher: ") + error.what());
  }
}

PointResult Publisher::publish(const Lister& lister) noexcept {
  try {
    return impl_->publish(lister, Clock::now() + impl_->options().stall, false);
  } catch (const std::exception& error) {
    return {PointResult::Kind::kVoid, 0, error.what()};
  }
}

void Publisher::skip(std::string why) noexcept {
  try {
    impl_->skip(why);
  } catch (const std::exception&) {
    // Out of memory: the coordinator learns of the missed point by the next state.
  }
}

Status Publisher::fence() noexcept {
  try {
    return impl_->fence(Clock::now() + impl_->options().stall);
  } catch (const std::exception& error) {
    return Status(Code::kInternal, error.what());
  }
}

Result<Verdict> Publisher::flush(Deadline deadline, const Lister& lister) {
  try {
    return impl_->flush(deadline, lister);
  } catch (const std::exception& error) {
    return Status(Code::kInternal, error.what());
  }
}

PublisherStatus Publisher::status() const { return impl_->status(); }
const PublisherOptions& Publisher::options() const noexcept { return impl_->options(); }

}  // namespace weightcast
