#include "staging/bucket_board.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "base/signal_mask.hpp"
#include "staging/object_name.hpp"

namespace weightcast::staging {

namespace {

constexpr std::uint64_t kBoardFormat = 0x7763'626f'6172'6401;  ///< "wcboard", 1
constexpr std::uint64_t kBoardBytes = 4096;

using Word = std::atomic<std::uint64_t>;
static_assert(Word::is_always_lock_free, "words are shared between processes");

constexpr std::size_t kHandleWords = sizeof(driver::IpcHandle::bytes) / sizeof(std::uint64_t);

constexpr auto kGet = std::memory_order_acquire;
constexpr auto kPut = std::memory_order_release;
constexpr auto kBoth = std::memory_order_acq_rel;

/// A seat's word: of which flow, and buckets below which one it has taken.
constexpr std::uint64_t kOut = 0xffffffff;

constexpr std::uint64_t seat_word(std::uint64_t ticket, std::uint64_t taken) noexcept {
  return ticket << 32 | taken;
}
constexpr std::uint64_t taken_of(std::uint64_t word) noexcept { return word & 0xffffffff; }

}  // namespace

/// All of it may be written by another process of this user at any time.
struct BoardPage {
  Word format;
  Word ticket;  ///< rises with each open() and each close(): odd while a flow is open
  Word ask, session, first, seats;
  Word last_ask, last_session;  ///< that was closed last
  std::array<Word, kHandleWords> memory;
  Word bucket_bytes, buckets;
  Word whole;
  /// seat_word(). One word, so that either a bucket is taken or the seat is put out, and what comes of a
  /// flow that is over changes nothing.
  std::array<Word, kBoardSeats> seat;
};
static_assert(sizeof(BoardPage) <= kBoardBytes);

BucketBoard::BucketBoard(std::string name, ShmObject object, ShmRegion region)
    : name_(std::move(name)),
      object_(std::move(object)),
      region_(std::move(region)),
      page_(static_cast<BoardPage*>(region_.get_address())),
      owner_(::getpid()) {}

Result<std::unique_ptr<BucketBoard>> BucketBoard::create(const std::string& prefix) {
  std::string name = board_name(prefix);
  auto object = create_locked_object(name);
  if (!object) return object.status();
  // A signal in the middle would undo it.
  const base::ScopedSignalMask masked;
  const int error = ::posix_fallocate(descriptor(*object), 0, kBoardBytes);
  if (error != 0) {
    unlink_object(name);
    return Status(Code::kExhausted, "no room in shared memory for the " +
                                        std::to_string(kBoardBytes) + " bytes of " + name + ": " +
                                        errno_text(error));
  }
  auto region = map_object(*object, boost::interprocess::read_write, 0, kBoardBytes);
  if (!region) {
    unlink_object(name);
    return region.status();
  }
  auto* const page = new (region->get_address()) BoardPage{};
  page->format.store(kBoardFormat, kPut);
  return std::unique_ptr<BucketBoard>(
      new BucketBoard(std::move(name), std::move(*object), std::move(*region)));
}

BucketBoard::~BucketBoard() {
  if (::getpid() != owner_) return;
  close();
  unlink_object(name_);
}

void BucketBoard::show(const BoardRing& ring) noexcept {
  close();
  std::array<std::uint64_t, kHandleWords> words{};
  std::memcpy(words.data(), ring.memory.bytes.data(), sizeof words);
  for (std::size_t i = 0; i < words.size(); ++i) page_->memory[i].store(words[i], kPut);
  page_->bucket_bytes.store(ring.bucket_bytes, kPut);
  page_->buckets.store(ring.buckets, kPut);
}

void BucketBoard::open(const BoardFlow& flow) noexcept {
  close();
  page_->ask.store(flow.ask, kPut);
  page_->session.store(flow.session, kPut);
  page_->first.store(flow.first, kPut);
  page_->seats.store(flow.seats, kPut);
  page_->whole.store(flow.first, kPut);
  const std::uint64_t ticket = page_->ticket.load(kGet) + 1;
  seats_ = std::min(flow.seats, kBoardSeats);
  for (std::uint32_t i = 0; i < seats_; ++i) {
    page_->seat[i].store(seat_word(ticket, flow.first), kPut);
  }
  page_->ticket.store(ticket, kPut);
}

void BucketBoard::set_whole(std::uint32_t end) noexcept { page_->whole.store(end, kPut); }

std::uint32_t BucketBoard::behind(std::uint32_t bucket) const noexcept {
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < seats_; ++i) {
    count += taken_of(page_->seat[i].load(kGet)) <= bucket ? 1 : 0;
  }
  return count;
}

std::uint32_t BucketBoard::put_out_behind(std::uint32_t bucket) noexcept {
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < seats_; ++i) {
    std::uint64_t word = page_->seat[i].load(kGet);
    while (taken_of(word) <= bucket) {
      if (!page_->seat[i].compare_exchange_weak(word, word | kOut, kBoth, kGet)) continue;
      ++count;
      break;
    }
  }
  return count;
}

void BucketBoard::close() noexcept {
  // From here on a ring may be used without a word to anybody.
  for (std::uint32_t i = 0; i < seats_; ++i) page_->seat[i].fetch_or(kOut, kBoth);
  seats_ = 0;
  if (page_->ticket.load(kGet) % 2 == 0) return;
  // In this order: who sees the ask sees its session.
  page_->last_session.store(page_->session.load(kGet), kPut);
  page_->last_ask.store(page_->ask.load(kGet), kPut);
  page_->ticket.fetch_add(1, kBoth);
}

BoardSeat::BoardSeat(ShmObject object, ShmRegion region, const BoardFlow& flow, std::uint32_t seat)
    : object_(std::move(object)),
      region_(std::move(region)),
      page_(static_cast<BoardPage*>(region_.get_address())),
      flow_(flow),
      seat_(seat) {}

Result<std::unique_ptr<BoardSeat>> BoardSeat::open(const std::string& name, const BoardFlow& flow,
                                                   std::uint32_t seat) {
  const auto parsed = parse_object_name(name);
  if (!parsed || !parsed->is_board || parsed->uid != ::geteuid() || seat >= kBoardSeats) {
    return Status(Code::kInvalid, "expected the name of a board of uid " +
                                      std::to_string(::geteuid()) + " and a seat below " +
                                      std::to_string(kBoardSeats) + ", got " + name + " and " +
                                      std::to_string(seat));
  }
  auto object = open_object(name, boost::interprocess::read_write);
  if (!object) return object.status();
  struct stat info {};
  if (::fstat(descriptor(*object), &info) != 0 ||
      info.st_size != static_cast<off_t>(kBoardBytes)) {
    return Status(Code::kMismatch, "expected a board of " + std::to_string(kBoardBytes) +
                                       " bytes, got " + std::to_string(info.st_size) + " of " + name);
  }
  auto region = map_object(*object, boost::interprocess::read_write, 0, kBoardBytes);
  if (!region) return region.status();
  std::unique_ptr<BoardSeat> one(
      new BoardSeat(std::move(*object), std::move(*region), flow, seat));
  if (const auto format = one->page_->format.load(kGet); format != kBoardFormat) {
    return Status(Code::kMismatch, "expected board format " + std::to_string(kBoardFormat) +
                                       ", got " + std::to_string(format) +
                                       "; install the same weightcast in all engines of a host");
  }
  return one;
}

/// Whether the flow that is open is the one that was asked for; reads it.
bool BoardSeat::enter(std::uint64_t ticket) noexcept {
  if (page_->ask.load(kGet) != flow_.ask || page_->session.load(kGet) != flow_.session) return false;
  const std::uint64_t first = page_->first.load(kGet);
  const std::uint64_t seats = page_->seats.load(kGet);
  std::array<std::uint64_t, kHandleWords> words{};
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = page_->memory[i].load(kGet);
  ring_.bucket_bytes = page_->bucket_bytes.load(kGet);
  const std::uint64_t buckets = page_->buckets.load(kGet);
  if (page_->ticket.load(kGet) != ticket) return false;  // it was being written
  std::memcpy(ring_.memory.bytes.data(), words.data(), sizeof words);
  ring_.buckets = static_cast<std::uint32_t>(buckets);
  flow_.first = static_cast<std::uint32_t>(first);
  flow_.seats = static_cast<std::uint32_t>(seats);
  return ring_.bucket_bytes != 0 && ring_.buckets != 0 && seat_ < seats;
}

/// Flows come in the order of their asks, and those of one ask in that of their sessions.
bool BoardSeat::is_past() const noexcept {
  const std::uint64_t last_ask = page_->last_ask.load(kGet);
  const std::uint64_t last_session = page_->last_session.load(kGet);
  return last_ask > flow_.ask || (last_ask == flow_.ask && last_session >= flow_.session);
}

bool BoardSeat::is_mine() const noexcept {
  return page_->ticket.load(kGet) == ticket_ && page_->seat[seat_].load(kGet) == word_;
}

/// @return whether the seat was still this one's, as it had left it
bool BoardSeat::set(std::uint64_t taken) noexcept {
  std::uint64_t word = word_;
  const std::uint64_t next = seat_word(ticket_, taken);
  if (!page_->seat[seat_].compare_exchange_strong(word, next, kBoth, kGet)) return false;
  word_ = next;
  return true;
}

BoardSeat::State BoardSeat::look() noexcept {
  if (*why_ != '\0') return State::kOver;
  if (try_lock_shared(descriptor(object_))) {
    unlock(descriptor(object_));
    why_ = "the leader is gone";
    return State::kOver;
  }
  if (ticket_ == 0) {
    const std::uint64_t ticket = page_->ticket.load(kGet);
    if (ticket % 2 == 0 || !enter(ticket)) {
      if (!is_past()) return State::kEarly;
      why_ = "the leader had ended the transfer before";
      return State::kOver;
    }
    ticket_ = ticket;
    word_ = seat_word(ticket, flow_.first);
  }
  if (is_mine()) return State::kOpen;
  why_ = page_->ticket.load(kGet) == ticket_ ? "the leader did not wait any longer"
                                             : "the leader has given up the transfer";
  return State::kOver;
}

void BoardSeat::leave() noexcept {
  if (ticket_ != 0) (void)set(kOut);
}

std::uint32_t BoardSeat::whole() const noexcept {
  return static_cast<std::uint32_t>(page_->whole.load(kGet));
}

bool BoardSeat::take(std::uint32_t bucket) noexcept {
  return ticket_ != 0 && set(std::uint64_t{bucket} + 1);
}

}  // namespace weightcast::staging
