// A directory of a test's own, 0700, removed with all that is in it.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

namespace weightcast::test {

class PrivatePlace {
 public:
  PrivatePlace() {
    // Short: the paths of sockets have little room.
    std::string name = "/tmp/wc-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
      ADD_FAILURE() << "no directory below /tmp: errno " << errno;
      return;
    }
    path_ = name;
  }
  ~PrivatePlace() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  PrivatePlace(const PrivatePlace&) = delete;
  PrivatePlace& operator=(const PrivatePlace&) = delete;

  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

}  // namespace weightcast::test
