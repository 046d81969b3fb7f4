# Installs the SDK below the build tree, moves the installation, and builds and runs this project against it.
cmake_minimum_required(VERSION 3.20)

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

set(here ${BUILD}/outside-${HOW})
file(REMOVE_RECURSE ${here})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${here}/first)
file(RENAME ${here}/first ${here}/prefix)

if(HOW STREQUAL cmake)
  run(${CMAKE_COMMAND} -S ${SOURCE} -B ${here}/build -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_CXX_FLAGS=${FLAGS}
      -DCMAKE_PREFIX_PATH=${here}/prefix)
  run(${CMAKE_COMMAND} --build ${here}/build)
  run(${here}/build/outside)
else()
  set(ENV{PKG_CONFIG_PATH} ${here}/prefix/${LIBDIR}/pkgconfig)
  execute_process(COMMAND pkg-config --cflags --libs idem OUTPUT_VARIABLE flags COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags UNIX_COMMAND "${FLAGS} ${flags}")
  run(${CXX} -std=c++20 ${SOURCE}/main.cpp ${flags} -Wl,-rpath,${here}/prefix/${LIBDIR} -o ${here}/outside)
  run(${here}/outside)
endif()
