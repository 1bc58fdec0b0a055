// What a FakeNccl's calls do on streams: they wait for each other, and bytes move.
#include <algorithm>
#include <utility>

#include "support/fake_nccl.hpp"

namespace weightcast::driver {
namespace {

using Lock = std::unique_lock<std::mutex>;

}  // namespace

Status FakeNccl::group_start() {
  const Lock lock(mutex_);
  if (Status s = enter("group_start"); !s) return s;
  if (is_grouped_) return wrong("a group in a group");
  is_grouped_ = true;
  return {};
}

Result<NcclProgress> FakeNccl::group_end() {
  std::vector<Queued> calls;
  {
    const Lock lock(mutex_);
    Status injected = enter("group_end");
    if (!is_grouped_) return wrong("the end of no group");
    is_grouped_ = false;
    calls = std::exchange(group_, {});
    if (!injected) return injected;
  }
  if (Status s = launch(std::move(calls)); !s) return s;
  return options_.call_polls > 0 ? NcclProgress::kUnderWay : NcclProgress::kOver;
}

Result<NcclProgress> FakeNccl::broadcast(NcclComm comm, const void* from, void* to,
                                         std::uint64_t bytes, int root, Stream stream) {
  return issue("broadcast", comm, {Kind::kBroadcast, from, to, bytes, root}, stream);
}

Result<NcclProgress> FakeNccl::send(NcclComm comm, const void* from, std::uint64_t bytes, int peer,
                                    Stream stream) {
  return issue("send", comm, {Kind::kSend, from, nullptr, bytes, peer}, stream);
}

Result<NcclProgress> FakeNccl::receive(NcclComm comm, void* to, std::uint64_t bytes, int peer,
                                       Stream stream) {
  return issue("receive", comm, {Kind::kReceive, nullptr, to, bytes, peer}, stream);
}

Result<NcclProgress> FakeNccl::issue(std::string_view call, NcclComm handle, Part part,
                                     Stream stream) {
  std::vector<Queued> calls;
  {
    const Lock lock(mutex_);
    if (Status s = enter(call); !s) return s;
    auto comm = usable(handle, call);
    if (!comm) return comm.status();
    if (part.peer < 0 || part.peer >= (*comm)->members->size ||
        (part.kind != Kind::kBroadcast && part.peer == (*comm)->rank)) {
      return wrong(std::string(call) + " with rank " + std::to_string(part.peer));
    }
    const bool reads = part.kind == Kind::kSend ||
                       (part.kind == Kind::kBroadcast && part.peer == (*comm)->rank);
    part.is_registered = is_registered(**comm, reads ? part.from : part.to, part.bytes);
    calls.push_back({handle, stream, std::make_shared<Part>(std::move(part))});
    if (is_grouped_) {
      group_.push_back(std::move(calls.front()));
      return NcclProgress::kOver;
    }
  }
  if (Status s = launch(std::move(calls)); !s) return s;
  return options_.call_polls > 0 ? NcclProgress::kUnderWay : NcclProgress::kOver;
}

/// One kernel for each communicator and stream of the calls.
Status FakeNccl::launch(std::vector<Queued> calls) {
  while (!calls.empty()) {
    const NcclComm handle = calls.front().comm;
    const Stream stream = calls.front().stream;
    auto kernel = std::make_shared<Kernel>();
    std::vector<std::shared_ptr<Part>> parts;
    int device = 0;
    int rank = 0;
    std::shared_ptr<Members> members;
    {
      const Lock lock(mutex_);
      auto comm = usable(handle, "a launch");
      if (!comm) return comm.status();
      device = (*comm)->device;
      rank = (*comm)->rank;
      members = (*comm)->members;
      for (const Queued& call : calls) {
        if (call.comm != handle || call.stream != stream) continue;
        call.part->kernel = kernel;
        ++kernel->open_parts;
        parts.push_back(call.part);
        enlist(**comm, call.part);
      }
      (*comm)->kernels.push_back(kernel);
      (*comm)->polls = options_.call_polls;
    }
    std::erase_if(calls, [&](const Queued& c) { return c.comm == handle && c.stream == stream; });
    cuda_->spin(device, stream,
                [this, members, parts, rank] {
                  const Lock lock(mutex_);
                  for (const auto& part : parts) part->has_begun = true;
                  for (Parts& all : members->broadcasts) begin(*members, all, rank);
                  for (auto& [pair, sequence] : members->pairs) {
                    for (Parts& all : sequence) begin(*members, all, rank);
                  }
                },
                kernel->gate);
  }
  return {};
}

bool FakeNccl::is_registered(const Comm& comm, const void* memory, std::uint64_t bytes) {
  const auto* at = static_cast<const std::byte*>(memory);
  return std::any_of(comm.registrations.begin(), comm.registrations.end(), [&](const auto& it) {
    const auto& [begin, size] = it.second;
    return at >= begin && at + bytes <= begin + size;
  });
}

void FakeNccl::enlist(Comm& comm, const std::shared_ptr<Part>& part) {
  std::size_t index = 0;
  std::vector<Parts>* sequence = &comm.members->broadcasts;
  if (part->kind == Kind::kBroadcast) {
    index = comm.broadcasts++;
  } else {
    const bool sends = part->kind == Kind::kSend;
    const std::pair<int, int> pair(sends ? comm.rank : part->peer, sends ? part->peer : comm.rank);
    sequence = &comm.members->pairs[pair];
    index = (sends ? comm.sent : comm.received)[pair]++;
  }
  if (sequence->size() <= index) sequence->resize(index + 1);
  (*sequence)[index][comm.rank] = part;
  check_match(*comm.members, (*sequence)[index]);
}

void FakeNccl::check_match(const Members&, const Parts& parts) {
  const Part& first = *parts.begin()->second;
  for (const auto& [rank, part] : parts) {
    const bool fits = part->bytes == first.bytes &&
                      (first.kind != Kind::kBroadcast || part->peer == first.peer);
    if (!fits) {
      (void)wrong("calls that do not match, so that all hang: rank " +
                  std::to_string(parts.begin()->first) + " has " + std::to_string(first.bytes) +
                  " bytes with rank " + std::to_string(first.peer) + ", rank " +
                  std::to_string(rank) + " has " + std::to_string(part->bytes) +
                  " bytes with rank " + std::to_string(part->peer));
    }
    if (part->is_registered != first.is_registered) {
      (void)wrong("some ranks' memory is registered and others' is not, which is undefined: " +
                  std::string(part->is_registered ? "rank " : "not rank ") + std::to_string(rank) +
                  "'s");
    }
  }
}

/// Moves the bytes of calls that all have come to. Within a kernel.
void FakeNccl::begin(Members& members, Parts& parts, int rank) {
  if (!parts.contains(rank) || parts.empty()) return;
  const Part& first = *parts.begin()->second;
  const std::size_t wanted =
      first.kind == Kind::kBroadcast ? static_cast<std::size_t>(members.size) : 2;
  const bool all_here =
      parts.size() == wanted && std::all_of(parts.begin(), parts.end(), [&](const auto& it) {
        return it.second->has_begun && it.second->bytes == first.bytes &&
               (first.kind != Kind::kBroadcast || it.second->peer == first.peer);
      });
  if (!all_here) return;
  const void* from = nullptr;
  for (const auto& [who, part] : parts) {
    if (part->kind == Kind::kBroadcast ? who == part->peer : part->kind == Kind::kSend) {
      from = part->from;
    }
  }
  for (const auto& [who, part] : parts) {
    if (part->to != nullptr) cuda_->copy_in_kernel(part->to, from, part->bytes);
    if (--part->kernel->open_parts == 0) part->kernel->gate->over = true;
  }
  parts.clear();
}

}  // namespace weightcast::driver
