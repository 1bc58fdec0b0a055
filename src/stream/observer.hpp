// Asks a coordinator for its picture of the job, without being a member.
#pragma once

#include <string>

#include <weightcast/job_status.hpp>

#include "stream/control_socket.hpp"

namespace weightcast::stream {

/// Who is asked.
struct Asked {
  std::string endpoint;  ///< of the coordinator, as ControlClient::connect
  std::string place;     ///< the meeting place that announced it; empty over tcp
  long pid = 0;          ///< that the announcement names
  Keys keys;             ///< needed over tcp
};

/// Asks again and again until an answer comes. Blocks until then or until the deadline.
/// Thread safety: any thread.
/// @return as job_status()
Result<JobStatus> observe(const Asked& asked, Deadline deadline);

}  // namespace weightcast::stream
