#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/log.hpp"
#include "base/signal_mask.hpp"
#include "base/unique_fd.hpp"
#include "metrics/outlet.hpp"

namespace weightcast::metrics {
namespace {

constexpr auto kEvery = std::chrono::seconds(5);
constexpr mode_t kMode = 0644;

Status failed(const std::string& what, int error) {
  const Code code = error == ENOENT                                        ? Code::kNotFound
                    : error == EACCES || error == EPERM || error == EROFS ? Code::kDenied
                                                                           : Code::kExhausted;
  return {code, what + ": " + std::strerror(error) +
                    "; expected a directory that exists and that this user may write to"};
}

/// Nobody ever sees half of it. No link is followed, so a writable directory leads nowhere else.
Status replace(const std::string& path, const std::string& text) {
  const std::string beside = path + "." + std::to_string(::getpid()) + ".new";
  ::unlink(beside.c_str());
  base::UniqueFd file(::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode));
  if (!file) return failed("cannot make the file " + beside, errno);
  ::fchmod(file.get(), kMode);  // whatever the umask
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t written = ::write(file.get(), text.data() + at, text.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int error = errno;
      ::unlink(beside.c_str());
      return failed("cannot write the file " + beside, error);
    }
    at += static_cast<std::size_t>(written);
  }
  if (std::rename(beside.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(beside.c_str());
    return failed("cannot put the file " + path + " in its place", error);
  }
  return Status::ok();
}

class File final : public Outlet {
 public:
  File(std::string path, MakeText text) : path_(std::move(path)), text_(std::move(text)) {}

  void start() {
    const base::ScopedSignalMask mask;
    thread_ = std::thread([this] { run(); });
  }

  ~File() override {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  const std::string& where() const noexcept override { return path_; }

  Status write() {
    try {
      return replace(path_, text_());
    } catch (const std::exception& error) {
      return Status(Code::kExhausted, error.what());
    }
  }

 private:
  void run() noexcept {
    pthread_setname_np(pthread_self(), "wc-metrics");
    for (bool last = false; !last;) {
      {
        std::unique_lock lock(mutex_);
        last = wake_.wait_for(lock, kEvery, [this] { return stop_; });
      }
      const Status status = write();
      if (!status && warning_.allow(Clock::now())) {
        base::log(LogLevel::kWarn, "metrics_file_failed",
                  {{"file", path_}, {"why", status.message()}});
      }
    }
  }

  const std::string path_;
  const MakeText text_;
  base::RateLimit warning_{std::chrono::minutes(1)};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Outlet>> write_file(const std::string& path, MakeText text) {
  auto file = std::make_unique<File>(path, std::move(text));
  if (Status status = file->write(); !status) return status;
  try {
    file->start();
  } catch (const std::system_error& error) {
    return Status(Code::kExhausted, std::string("cannot start the thread of metrics: ") +
                                        error.what() + "; raise the limit on threads (ulimit -u)");
  }
  return std::unique_ptr<Outlet>(std::move(file));
}

}  // namespace weightcast::metrics
