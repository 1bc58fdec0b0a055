#include "base/trace_file.hpp"

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>
#include <utility>

#include "base/errno_text.hpp"
#include "base/host.hpp"

namespace weightcast::base {
namespace {

constexpr int kMostNames = 100;
constexpr std::size_t kMostRows = 256;
/// For the last event and the bracket, which come in any case.
constexpr std::uint64_t kEndBytes = 512;

/// "trace.json" becomes "trace.77.json", then "trace.77.2.json".
std::string beside(const std::string& path, int attempt) {
  const std::size_t slash = path.rfind('/');
  const std::size_t name = slash == std::string::npos ? 0 : slash + 1;
  std::size_t dot = path.rfind('.');
  if (dot == std::string::npos || dot <= name) dot = path.size();
  std::string middle = "." + std::to_string(::getpid());
  if (attempt > 1) middle += "." + std::to_string(attempt);
  return path.substr(0, dot) + middle + path.substr(dot);
}

Status refusal(const std::string& path, int error) {
  const std::string what = "cannot make the trace file '" + path + "': " + errno_text(error);
  switch (error) {
    case ENOENT: return {Code::kNotFound, what + "; make the directory above it"};
    case ENOTDIR:
    case ENAMETOOLONG: return {Code::kInvalid, what + "; give another name"};
    case EMFILE:
    case ENFILE:
    case ENOSPC:
    case EDQUOT: return {Code::kExhausted, what};
    default: return {Code::kDenied, what + "; name a file in a directory that you may write to"};
  }
}

/// As in a JSON text. Bytes beyond ASCII are taken for Latin-1, so that any name makes a valid file.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (code < 0x20 || code > 0x7e) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      out += c;
    }
  }
  return out;
}

/// Microseconds with the nanoseconds behind the point.
std::string micros(std::int64_t ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }

}  // namespace

Result<UniqueFd> create_trace_file(std::string& path) {
  if (path.empty() || path.back() == '/') {
    return Status(Code::kInvalid, "expected the name of a trace file, got '" + path +
                                      "'; name a file, as 'trace-%n-%p.json'");
  }
  std::string name = path;
  for (int attempt = 1; attempt <= kMostNames; ++attempt) {
    // O_EXCL follows no link and takes nothing that exists.
    UniqueFd file(::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600));
    if (file) {
      path = name;
      return file;
    }
    if (errno != EEXIST) return refusal(name, errno);
    struct stat info {};
    if (::stat(name.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
      return Status(Code::kInvalid, "expected '" + name +
                                        "' to be a trace file's name, but it is a directory; add "
                                        "a name to it, as '" +
                                        name + "/%n-%p.json'");
    }
    name = beside(path, attempt);
  }
  return Status(Code::kDenied, "'" + path + "' exists, as do " + std::to_string(kMostNames - 1) +
                                   " names beside it up to '" + name + "': remove old trace files");
}

TraceWriter::TraceWriter(UniqueFd file, std::uint64_t most_bytes, std::string_view process_name)
    : file_(std::move(file)), most_bytes_(most_bytes), process_(::getpid()) {
  waiting_ = fmt::format(
      "[\n{{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":{0},\"tid\":0,"
      "\"args\":{{\"name\":\"{1}\"}}}},\n"
      "{{\"name\":\"weightcast\",\"ph\":\"M\",\"pid\":{0},\"tid\":0,"
      "\"args\":{{\"clock\":\"{2}\"}}}}",
      process_, escaped(process_name), escaped(host_identity()));
  bytes_ = waiting_.size();
}

/// The first row of the track that is free by then; they come about in the order of their ends.
std::size_t TraceWriter::row_for(const TraceEvent& event) {
  std::size_t known = 0;
  std::size_t freest = rows_.size();
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    if (rows_[i].track != event.track.view()) continue;
    if (rows_[i].busy_until <= event.begin_ns) return i;
    if (freest == rows_.size() || rows_[i].busy_until < rows_[freest].busy_until) freest = i;
    ++known;
  }
  if (rows_.size() >= kMostRows) return freest == rows_.size() ? 0 : freest;
  rows_.push_back({std::string(event.track.view())});
  const std::string number = known == 0 ? "" : fmt::format(" {}", known + 1);
  fmt::format_to(std::back_inserter(waiting_),
                 ",\n{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":{},\"tid\":{},"
                 "\"args\":{{\"name\":\"{}{}\"}}}}",
                 process_, rows_.size(), escaped(event.track.view()), number);
  return rows_.size() - 1;
}

bool TraceWriter::add(const TraceEvent& event) {
  if (broken_ || bytes_ + kEndBytes > most_bytes_) return false;
  const std::size_t before = waiting_.size();
  const std::size_t row = row_for(event);
  rows_[row].busy_until = std::max(rows_[row].busy_until, event.end_ns);
  auto out = std::back_inserter(waiting_);
  fmt::format_to(out,
                 ",\n{{\"name\":\"{}\",\"cat\":\"{}\",\"ph\":\"X\",\"ts\":{},\"dur\":{},\"pid\":{},"
                 "\"tid\":{},\"args\":{{",
                 escaped(event.name.view()), escaped(event.track.view()), micros(event.begin_ns),
                 micros(event.end_ns - event.begin_ns), process_, row + 1);
  const char* comma = "";
  const auto put = [&](const char* name, std::int64_t value) {
    if (value < 0) return;
    fmt::format_to(out, "{}\"{}\":{}", comma, name, value);
    comma = ",";
  };
  if (event.args.version != 0) {
    fmt::format_to(out, "\"version\":{}", event.args.version);
    comma = ",";
  }
  put("bucket", event.args.bucket);
  put("bytes", event.args.bytes);
  put("rank", event.args.rank);
  waiting_ += "}}";
  bytes_ += waiting_.size() - before;
  ++events_;
  return true;
}

void TraceWriter::end(std::uint64_t dropped) {
  fmt::format_to(std::back_inserter(waiting_),
                 ",\n{{\"name\":\"trace_end\",\"ph\":\"i\",\"s\":\"p\",\"ts\":{},\"pid\":{},\"tid\":0,"
                 "\"args\":{{\"events\":{},\"dropped\":{}}}}}\n]\n",
                 micros(Clock::now().time_since_epoch().count()), process_, events_, dropped);
}

Status TraceWriter::flush() {
  std::size_t done = 0;
  while (!broken_ && done < waiting_.size()) {
    const ssize_t put = ::write(file_.get(), waiting_.data() + done, waiting_.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      broken_ = true;
      waiting_.clear();
      return {Code::kExhausted,
              "cannot write the trace: " + errno_text(put < 0 ? errno : ENOSPC) + "; it ends here"};
    }
    done += static_cast<std::size_t>(put);
  }
  waiting_.clear();
  return Status::ok();
}

}  // namespace weightcast::base
