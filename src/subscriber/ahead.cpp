#include "subscriber/ahead.hpp"

#include <algorithm>

#include "base/trace.hpp"
#include "subscriber/fetch.hpp"
#include "subscriber/stager.hpp"

namespace weightcast::subscriber {

bool continues(const Ahead& ahead, const Version& version, const plan::Manifest& manifest,
               const plan::ImagePlan& plan) {
  if (ahead.version != version || ahead.plan.image_bytes != plan.image_bytes) return false;
  const bool same_shares =
      std::equal(ahead.manifest.shares.begin(), ahead.manifest.shares.end(),
                 manifest.shares.begin(), manifest.shares.end(),
                 [](const plan::Share& x, const plan::Share& y) {
                   return x.rank == y.rank && x.object == y.object &&
                          x.generation == y.generation && x.payload_bytes == y.payload_bytes;
                 });
  return same_shares &&
         std::equal(ahead.plan.buckets.begin(), ahead.plan.buckets.end(), plan.buckets.begin(),
                    plan.buckets.end(),
                    [](const plan::PlannedBucket& x, const plan::PlannedBucket& y) {
                      return x.share == y.share && x.strips == y.strips;
                    });
}

// ---- the stager's part ------------------------------------------------------------------------

bool Stager::has_orders() {
  const std::lock_guard lock(mutex_);
  return stop_ || !queue_.empty();
}

void Stager::read_ahead(protocol::ReadAhead& order) {
  ahead_.reset();
  const bool has_spare = activation_ == Activation::kFlip || activation_ == Activation::kStaged;
  if (room_->memory().device() < 0 || !has_spare || staged_ || order.version <= serving_) return;
  Incoming incoming;
  incoming.version = order.version;
  incoming.manifest = std::move(order.manifest);
  auto sources = sources_.choose(incoming.version, incoming.manifest, {});
  if (!sources) return;
  incoming.sources = std::move(*sources);
  if (!plan_for(incoming) || incoming.plan.image_bytes > image_bytes_) return;

  std::vector<std::shared_ptr<transport::Draft>> drafts(incoming.sources.size());
  bool any = false;
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    if (incoming.plan.share_bytes[i] == 0) continue;
    auto draft = sources_.follow(incoming.manifest.shares[i].rank, incoming.sources[i]);
    if (!draft) continue;  // it comes once it is sealed
    drafts[i] = std::move(*draft);
    any = true;
  }
  if (!any) return;
  auto buffer =
      room_->spare_buffer(incoming.plan.image_bytes, [this] { return has_orders(); });
  if (!buffer || !*buffer) return;

  Ahead ahead{incoming.version, std::move(incoming.manifest), std::move(incoming.plan),
              std::move(*buffer), {}};
  ahead.there.assign(ahead.plan.buckets.size(), 0);
  const Following following{ahead.plan, ahead.buffer->bytes().first(ahead.plan.image_bytes), drafts,
                            ahead.there, options_.member_timeout};
  const base::TraceScope span("stage", "read ahead", {.version = ahead.version.number});
  const Status status = room_->memory().follow(following, [this] { return has_orders(); });
  const auto read = std::count(ahead.there.begin(), ahead.there.end(), 1);
  base::log(LogLevel::kDebug, "read_ahead",
            {{"version", to_string(ahead.version)},
             {"read", read},
             {"buckets", ahead.there.size()},
             {"status", status.to_string()}});
  if (status && read != 0) ahead_ = std::move(ahead);
}

}  // namespace weightcast::subscriber
