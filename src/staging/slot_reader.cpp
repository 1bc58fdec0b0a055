#include "staging/slot_reader.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <utility>

#include "staging/pages.hpp"
#include "staging/shm_object.hpp"
#include "staging/slot_format.hpp"

namespace weightcast::staging {
namespace {

/// Read by the kernel, not through a mapping: an object that somebody cut short gives fewer bytes
/// instead of a SIGBUS.
bool read_header(int fd, SlotHeader& out) noexcept {
  return ::pread(fd, &out, sizeof out, 0) == static_cast<ssize_t>(sizeof out);
}

/// One word of the header.
std::optional<std::uint64_t> read_word(int fd, std::size_t offset) noexcept {
  std::uint64_t word = 0;
  if (::pread(fd, &word, sizeof word, static_cast<off_t>(offset)) != ssize_t{sizeof word}) {
    return std::nullopt;
  }
  return word;
}

std::string describe(const Version& version, std::uint64_t generation, std::uint64_t bytes) {
  return "version " + to_string(version) + " of generation " + std::to_string(generation) +
         " with " + std::to_string(bytes) + " bytes";
}

std::string describe(const SlotHeader& header) {
  switch (static_cast<SlotState>(header.state)) {
    case SlotState::kEmpty:
      return "nothing yet";
    case SlotState::kWriting:
      return "a version in the making, of generation " + std::to_string(header.generation);
    case SlotState::kSealed:
      break;
  }
  const Version version{{header.run_started_us, static_cast<std::uint32_t>(header.run_tie)},
                        header.number};
  return describe(version, header.generation, header.payload_bytes);
}

}  // namespace

SlotLock::SlotLock(SlotLock&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), process_(other.process_) {}

SlotLock& SlotLock::operator=(SlotLock&& other) noexcept {
  if (this != &other) {
    release();
    fd_ = std::exchange(other.fd_, -1);
    process_ = other.process_;
  }
  return *this;
}

SlotLock::SlotLock(int fd) noexcept : fd_(fd), process_(::getpid()) {}
SlotLock::~SlotLock() { release(); }

void SlotLock::release() noexcept {
  // A forked child shares the lock with its parent and must not end it.
  if (fd_ >= 0 && process_ == ::getpid()) unlock(fd_);
  fd_ = -1;
}

struct SlotReader::Impl {
  std::string name;
  ShmObject object;
  ShmRegion region;  ///< the payload's pages
  SlotMapping mapping = SlotMapping::kPrivate;
  bool payload_here = true;
  std::uint64_t capacity = 0;

  Status map();
  std::span<std::byte> pages() noexcept {
    if (mapping == SlotMapping::kNone) return {};
    return {static_cast<std::byte*>(region.get_address()), region.get_size()};
  }
};

Status SlotReader::Impl::map() {
  if (!payload_here) mapping = SlotMapping::kNone;
  if (mapping == SlotMapping::kNone) return Status::ok();
  ShmMode mode = boost::interprocess::copy_on_write;
  if (mapping == SlotMapping::kShared) mode = boost::interprocess::read_only;
  if (mapping == SlotMapping::kSharedWritable) mode = boost::interprocess::read_write;
  Result<ShmRegion> mapped = map_object(object, mode, header_bytes(), mapped_bytes(capacity));
  if (!mapped) return mapped.status();
  region = std::move(*mapped);
  touch_for_reading(pages());
  return Status::ok();
}

SlotReader::SlotReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SlotReader::~SlotReader() = default;

Result<std::unique_ptr<SlotReader>> SlotReader::open(const std::string& name,
                                                     SlotMapping mapping) {
  auto impl = std::make_unique<Impl>();
  impl->name = name;
  impl->mapping = mapping;
  Result<ShmObject> opened =
      open_object(name, mapping == SlotMapping::kSharedWritable ? boost::interprocess::read_write
                                                                : boost::interprocess::read_only);
  if (!opened) return opened.status();
  impl->object = std::move(*opened);

  SlotHeader header{};
  struct stat info {};
  const int fd = descriptor(impl->object);
  if (!read_header(fd, header) || header.magic != kSlotMagic || ::fstat(fd, &info) != 0) {
    return Status(Code::kMismatch, "shared memory " + name +
                                       " is no slot of weightcast, or not "
                                       "finished yet; ask the source again");
  }
  if (header.format != kSlotFormat) {
    return Status(Code::kMismatch, "slot " + name + " has format " + std::to_string(header.format) +
                                       ", expected " + std::to_string(kSlotFormat) +
                                       ": use the same weightcast on both sides");
  }
  const auto size = static_cast<std::uint64_t>(info.st_size);
  // Compared this way round, a made-up capacity cannot overflow.
  const bool payload_here = header.payload_here != 0;
  if ((payload_here && header.capacity > size) ||
      object_bytes(header.capacity, payload_here) != size) {
    return Status(Code::kMismatch, "slot " + name + " says it has room for " +
                                       std::to_string(header.capacity) + " bytes, but has " +
                                       std::to_string(size) + " in all; it was cut or overwritten");
  }
  impl->capacity = header.capacity;
  impl->payload_here = payload_here;
  if (Status mapped = impl->map(); !mapped) return mapped;
  return std::unique_ptr<SlotReader>(new SlotReader(std::move(impl)));
}

Result<SlotLock> SlotReader::lock(const Version& version, std::uint64_t generation,
                                  std::uint64_t payload_bytes) {
  const int fd = descriptor(impl_->object);
  const auto stale = [&](const std::string& found) {
    return Status(Code::kStale, "slot " + impl_->name + ": expected " +
                                    describe(version, generation, payload_bytes) + ", found " +
                                    found + "; ask for the newest version");
  };
  if (!try_lock_shared(fd)) return stale("that it is being written");
  SlotLock held(fd);
  SlotHeader header{};
  if (!read_header(fd, header)) return stale("that it was cut short");
  const bool same = header.state == static_cast<std::uint64_t>(SlotState::kSealed) &&
                    header.run_started_us == version.run.started_us &&
                    header.run_tie == version.run.tie && header.number == version.number &&
                    header.generation == generation && header.payload_bytes == payload_bytes;
  if (!same) return stale(describe(header));
  if (payload_bytes > impl_->capacity) {
    return Status(Code::kMismatch, "slot " + impl_->name + " is sealed with " +
                                       std::to_string(payload_bytes) + " bytes, but has room for " +
                                       std::to_string(impl_->capacity) + "; it was overwritten");
  }
  if (impl_->mapping == SlotMapping::kPrivate && !drop_private_copies(impl_->pages())) {
    return Status(Code::kInternal, "slot " + impl_->name +
                                       ": the kernel does not give up the pages that this process "
                                       "has written to (madvise: " +
                                       errno_text(errno) + ")");
  }
  return held;
}

std::optional<std::uint64_t> SlotReader::written(std::uint64_t generation) const noexcept {
  const int fd = descriptor(impl_->object);
  // In this order: `written` goes to 0 before the generation rises, so what stands between two looks
  // at one generation is that generation's, or 0.
  const auto before = read_word(fd, offsetof(SlotHeader, generation));
  if (before != generation) return std::nullopt;
  const auto written = read_word(fd, offsetof(SlotHeader, written));
  const auto after = read_word(fd, offsetof(SlotHeader, generation));
  if (after != generation) return std::nullopt;
  return written;
}

bool SlotReader::payload_here() const noexcept { return impl_->payload_here; }

bool SlotReader::gone() const noexcept { return !still_linked(descriptor(impl_->object)); }

std::span<std::byte> SlotReader::payload() noexcept {
  const std::span<std::byte> pages = impl_->pages();
  return pages.empty() ? pages : pages.first(impl_->capacity);
}

}  // namespace weightcast::staging
