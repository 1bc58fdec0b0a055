#include "transport/tcp/wire.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "proto/data.pb.h"
#include "staging/bucket_board.hpp"
#include "transport/bucket_runs.hpp"

namespace weightcast::transport {
namespace {

using staging::kBoardSeats;

constexpr std::size_t kMaxTextBytes = 1024;
constexpr std::uint32_t kMostBlocks = 64;  ///< as NCCL has it

Status invalid(std::string what) {
  return {Code::kInvalid, std::move(what) +
                              "; the sender is damaged or runs another weightcast: run the same "
                              "version on both sides"};
}

bool is_control(char c) noexcept { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

template <class Message>
Status parse(std::span<const std::byte> bytes, std::size_t limit, Message& out) {
  if (bytes.size() > limit || !out.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return invalid("expected a message of the data plane of at most " + std::to_string(limit) +
                   " bytes, got " + std::to_string(bytes.size()) + " bytes that are none");
  }
  if (out.format() != kDataFormat) {
    return {Code::kMismatch, "expected data format " + std::to_string(kDataFormat) + ", got " +
                                 std::to_string(out.format()) +
                                 "; install the same weightcast in trainer and engines"};
  }
  return Status::ok();
}

Status read(const data::Segment& in, SegmentAddress& out) {
  out.object = in.object();
  out.version = {{in.run_started_us(), in.run_tie()}, in.number()};
  out.generation = in.generation();
  out.payload_bytes = in.payload_bytes();
  if (out.object.empty() || out.object.size() > kMaxObjectBytes ||
      std::any_of(out.object.begin(), out.object.end(), is_control)) {
    return invalid("expected an object's name of 1 to " + std::to_string(kMaxObjectBytes) +
                   " characters, got " + std::to_string(out.object.size()) +
                   " bytes that are none");
  }
  return Status::ok();
}

bool is_name(const std::string& text) {
  return !text.empty() && text.size() <= kMaxNameBytes &&
         std::none_of(text.begin(), text.end(), is_control);
}

Status read(const data::SessionAsk& in, const SegmentAddress& segment, SessionAsk& out) {
  if (!is_name(in.name()) || !is_name(in.device())) {
    return invalid("expected names of 1 to " + std::to_string(kMaxNameBytes) +
                   " characters of an engine and its device in an ask for a session");
  }
  out.name = in.name();
  out.incarnation = in.incarnation();
  out.version = segment.version;
  out.generation = segment.generation;
  out.plan = in.plan();
  out.device = in.device();
  out.nccl_version = static_cast<int>(in.nccl_version() & 0x7fffffff);
  out.have = in.have();
  out.failed = in.failed();
  out.is_ready = in.is_ready();
  out.kept = in.kept();
  out.may_keep = in.may_keep();
  if ((!in.place().empty() && !is_name(in.place())) || (!in.board().empty() && !is_name(in.board()))) {
    return invalid("expected names of at most " + std::to_string(kMaxNameBytes) +
                   " characters of a place and a board in an ask for a session");
  }
  out.place = in.place();
  out.board = in.board();
  return Status::ok();
}

Status read(const data::SessionAnswer& in, SessionAnswer& out) {
  if (in.kind() > static_cast<std::uint32_t>(SessionAnswer::Kind::kRefuse)) {
    return invalid("expected a known answer about a session, got " + std::to_string(in.kind()));
  }
  out.kind = static_cast<SessionAnswer::Kind>(in.kind());
  if (out.kind != SessionAnswer::Kind::kGo) return Status::ok();
  if (in.id().size() != out.id.bytes.size() || in.size() > static_cast<std::uint32_t>(kMaxRanks) ||
      in.rank() >= in.size()) {
    return invalid("expected an id of " + std::to_string(out.id.bytes.size()) +
                   " bytes and a rank below a size of at most " + std::to_string(kMaxRanks) +
                   ", got " + std::to_string(in.id().size()) + ", " + std::to_string(in.rank()) +
                   ", " + std::to_string(in.size()));
  }
  out.session = in.session();
  out.kept = in.kept();
  out.keeps = in.keeps();
  if (in.blocks() > kMostBlocks) {
    return invalid("expected at most " + std::to_string(kMostBlocks) + " blocks, got " +
                   std::to_string(in.blocks()));
  }
  out.blocks = static_cast<int>(in.blocks());
  std::memcpy(out.id.bytes.data(), in.id().data(), out.id.bytes.size());
  out.rank = static_cast<int>(in.rank());
  out.size = static_cast<int>(in.size());
  out.first = in.first();
  if ((!in.board().empty() && !is_name(in.board())) || in.neighbours() > kBoardSeats ||
      in.seat() >= kBoardSeats) {
    return invalid("expected a board's name, a seat below " + std::to_string(kBoardSeats) +
                   " and at most as many neighbours, got " + std::to_string(in.seat()) + " and " +
                   std::to_string(in.neighbours()));
  }
  out.neighbours = in.neighbours();
  out.board = in.board();
  out.leader_ask = in.leader_ask();
  out.seat = in.seat();
  return Status::ok();
}

Status check_range(const DataRequest& request) {
  const std::uint64_t payload = request.segment.payload_bytes;
  std::uint64_t bytes = request.bytes;
  if (!request.strips.empty()) {
    const auto sum = check_strips(request.strips, payload);
    if (!sum) return sum.status();
    bytes = *sum;
  } else if (request.offset > payload || bytes > payload - request.offset) {
    return invalid("expected a range inside a payload of " + std::to_string(payload) +
                   " bytes, got " + std::to_string(bytes) + " at " +
                   std::to_string(request.offset));
  }
  if (bytes != request.bytes || bytes > kMaxBucketBytes) {
    return invalid("expected a bucket of at most " + std::to_string(kMaxBucketBytes) +
                   " bytes whose strips make its size, got one of " +
                   std::to_string(request.bytes) + " with strips of " + std::to_string(bytes));
  }
  return Status::ok();
}

}  // namespace

std::string encode(const DataRequest& request) {
  data::Request out;
  out.set_format(kDataFormat);
  out.set_id(request.id);
  out.set_kind(static_cast<data::Kind>(request.kind));
  data::Segment& segment = *out.mutable_segment();
  segment.set_object(request.segment.object);
  segment.set_run_started_us(request.segment.version.run.started_us);
  segment.set_run_tie(request.segment.version.run.tie);
  segment.set_number(request.segment.version.number);
  segment.set_generation(request.segment.generation);
  segment.set_payload_bytes(request.segment.payload_bytes);
  out.set_offset(request.offset);
  out.set_bytes(request.bytes);
  for (const Strip& strip : request.strips) {
    data::Strip& to = *out.add_strips();
    to.set_offset(strip.offset);
    to.set_bytes(strip.bytes);
    to.set_count(strip.count);
    to.set_stride(strip.stride);
  }
  out.set_want_digest(request.want_digest);
  if (request.kind == RequestKind::kSession) {
    data::SessionAsk& ask = *out.mutable_session();
    ask.set_name(request.session.name);
    ask.set_incarnation(request.session.incarnation);
    ask.set_plan(request.session.plan);
    ask.set_device(request.session.device);
    ask.set_nccl_version(static_cast<std::uint32_t>(request.session.nccl_version));
    ask.set_have(request.session.have);
    ask.set_failed(request.session.failed);
    ask.set_is_ready(request.session.is_ready);
    ask.set_kept(request.session.kept);
    ask.set_may_keep(request.session.may_keep);
    ask.set_place(request.session.place);
    ask.set_board(request.session.board);
  }
  return out.SerializeAsString();
}

std::string encode(const DataReply& reply) {
  data::Reply out;
  out.set_format(kDataFormat);
  out.set_id(reply.id);
  out.set_code(static_cast<std::uint32_t>(reply.status.code()));
  out.set_text(reply.status.message().substr(0, kMaxTextBytes));
  out.set_bytes(reply.bytes);
  if (reply.digest) {
    out.set_has_digest(true);
    out.set_digest_a(reply.digest->a);
    out.set_digest_b(reply.digest->b);
  }
  if (reply.session) {
    data::SessionAnswer& answer = *out.mutable_session();
    answer.set_kind(static_cast<std::uint32_t>(reply.session->kind));
    if (reply.session->kind == SessionAnswer::Kind::kGo) {
      answer.set_session(reply.session->session);
      answer.set_kept(reply.session->kept);
      answer.set_keeps(reply.session->keeps);
      answer.set_blocks(static_cast<std::uint32_t>(reply.session->blocks));
      answer.set_id(reply.session->id.bytes.data(), reply.session->id.bytes.size());
      answer.set_rank(static_cast<std::uint32_t>(reply.session->rank));
      answer.set_size(static_cast<std::uint32_t>(reply.session->size));
      answer.set_first(reply.session->first);
      answer.set_neighbours(reply.session->neighbours);
      answer.set_board(reply.session->board);
      answer.set_leader_ask(reply.session->leader_ask);
      answer.set_seat(reply.session->seat);
    }
  }
  return out.SerializeAsString();
}

Result<DataRequest> decode_request(std::span<const std::byte> bytes) {
  data::Request in;
  if (Status s = parse(bytes, kMaxRequestBytes, in); !s) return s;
  DataRequest out;
  out.id = in.id();
  switch (in.kind()) {
    case data::KIND_HOLD:
      out.kind = RequestKind::kHold;
      break;
    case data::KIND_BUCKET:
      out.kind = RequestKind::kBucket;
      break;
    case data::KIND_RELEASE:
      out.kind = RequestKind::kRelease;
      break;
    case data::KIND_SESSION:
      out.kind = RequestKind::kSession;
      break;
    default:
      return invalid("expected a known kind of request, got " + std::to_string(in.kind()));
  }
  if (Status s = read(in.segment(), out.segment); !s) return s;
  if (out.kind == RequestKind::kSession) {
    if (Status s = read(in.session(), out.segment, out.session); !s) return s;
  }
  if (out.kind != RequestKind::kBucket) return out;
  if (static_cast<std::size_t>(in.strips_size()) > kMaxStrips) {
    return invalid("expected at most " + std::to_string(kMaxStrips) + " strips, got " +
                   std::to_string(in.strips_size()));
  }
  out.offset = in.offset();
  out.bytes = in.bytes();
  out.want_digest = in.want_digest();
  out.strips.reserve(static_cast<std::size_t>(in.strips_size()));
  for (const data::Strip& strip : in.strips()) {
    out.strips.push_back({strip.offset(), strip.bytes(), strip.count(), strip.stride()});
  }
  if (Status s = check_range(out); !s) return s;
  return out;
}

Result<DataReply> decode_reply(std::span<const std::byte> bytes) {
  data::Reply in;
  if (Status s = parse(bytes, kMaxReplyBytes, in); !s) return s;
  if (in.code() > static_cast<std::uint32_t>(Code::kInternal) || in.text().size() > kMaxTextBytes ||
      in.bytes() > kMaxBucketBytes) {
    return invalid("expected a reply with a known code, a text of at most " +
                   std::to_string(kMaxTextBytes) + " bytes and a payload of at most " +
                   std::to_string(kMaxBucketBytes) + ", got code " + std::to_string(in.code()) +
                   ", " + std::to_string(in.text().size()) + ", " + std::to_string(in.bytes()));
  }
  DataReply out;
  out.id = in.id();
  out.bytes = in.bytes();
  if (const auto code = static_cast<Code>(in.code()); code != Code::kOk) {
    std::string text = in.text();
    std::replace_if(text.begin(), text.end(), is_control, ' ');
    out.status = Status(code, std::move(text));
  }
  if (in.has_digest()) out.digest = base::Digest{in.digest_a(), in.digest_b()};
  if (in.has_session()) {
    if (Status s = read(in.session(), out.session.emplace()); !s) return s;
    out.session->status = out.status;
  }
  return out;
}

}  // namespace weightcast::transport
