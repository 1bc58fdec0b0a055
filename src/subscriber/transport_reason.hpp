// Why a version comes the way it comes, in words.
#pragma once

#include <string>
#include <vector>

#include "subscriber/sources.hpp"

namespace weightcast::subscriber {

/// @param sources as chosen, one for each share
/// @param relay the engine that it is read from; empty: the trainer's ranks
/// @param wanted option `transport`. Pure.
std::string transport_reason(const std::vector<ShareSource>& sources, const std::string& relay,
                             TransportChoice wanted);

}  // namespace weightcast::subscriber
