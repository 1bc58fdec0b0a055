// Words of the command line that trainer and engine on a device share, and the failpoints that the
// driving script arms in them.
#pragma once

#include <signal.h>

#include <atomic>
#include <map>
#include <sstream>
#include <string>

#include <weightcast/publisher.hpp>
#include <weightcast/subscriber.hpp>

#include "base/failpoint.hpp"

namespace bench {

inline const std::map<std::string, weightcast::TransportChoice> kTransports{
    {"auto", weightcast::TransportChoice::kAuto},
    {"shm", weightcast::TransportChoice::kShm},
    {"tcp", weightcast::TransportChoice::kTcp},
    {"cuda_ipc", weightcast::TransportChoice::kCudaIpc},
    {"nccl", weightcast::TransportChoice::kNccl}};
inline const std::map<std::string, weightcast::Staging> kStagings{
    {"auto", weightcast::Staging::kAuto},
    {"host", weightcast::Staging::kHost},
    {"device", weightcast::Staging::kDevice}};
inline const std::map<std::string, weightcast::Activation> kActivations{
    {"auto", weightcast::Activation::kAuto},
    {"view", weightcast::Activation::kView},
    {"flip", weightcast::Activation::kFlip},
    {"staged", weightcast::Activation::kStaged},
    {"serial", weightcast::Activation::kSerial}};

/// "?" for a value that has no name.
template <class T>
std::string word_of(const std::map<std::string, T>& words, T value) {
  for (const auto& [word, its] : words) {
    if (its == value) return word;
  }
  return "?";
}

/// The signal that this process raises on itself when it next passes a failpoint. One at a time.
class Fault {
 public:
  /// "NAME SIGNAL", as "engine.copying 9".
  static void arm(const std::string& words) {
    std::istringstream in(words);
    int signal = 0;
    in >> name() >> signal;
    weightcast::base::failpoint_handler().store(&passed);
    armed().store(signal);
  }

 private:
  static std::string& name() {
    static std::string value;  // written before armed()
    return value;
  }
  static std::atomic<int>& armed() {
    static std::atomic<int> value{0};
    return value;
  }
  static void passed(const char* place, unsigned long long) {
    int signal = armed().load();
    if (signal == 0 || name() != place) return;
    if (armed().compare_exchange_strong(signal, 0)) ::raise(signal);
  }
};

}  // namespace bench
