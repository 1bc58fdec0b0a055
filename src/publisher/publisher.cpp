// How a publisher is opened, what it says of itself, and its public face.
#include <weightcast/publisher.hpp>

#include <unistd.h>

#include <chrono>
#include <exception>
#include <utility>

#include "base/clock.hpp"
#include "base/config.hpp"
#include "base/log.hpp"
#include "publisher/options.hpp"
#include "publisher/publisher_impl.hpp"
#include "staging/object_name.hpp"
#include "staging/sweep.hpp"
#include "stream/rendezvous.hpp"

namespace weightcast {

Result<std::unique_ptr<Publisher::Impl>> Publisher::Impl::open(PublisherOptions options,
                                                               const Lister& lister) {
  if (Status status = publisher::check_options(options); !status) return status;
  const std::string rank = std::to_string(options.rank);
  auto trace = base::TraceUse::open(options.trace, "rank-" + rank, "trainer rank " + rank);
  if (!trace) return trace.status();
  auto shown = metrics::Use::open(options.metrics, "rank-" + rank);
  if (!shown) return shown.status();
  TensorList list;
  if (Status status = publisher::call_lister(lister, list); !status) return status;
  publisher::CapturePlan layout = publisher::make_capture_plan(list, options);
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
  const std::uint64_t incarnation = base::unix_us();
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
